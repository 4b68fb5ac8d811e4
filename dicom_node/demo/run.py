"""The demonstration: phantom study over real DICOM to a throwaway node, labelled result back, judged and drawn.

Three kinds of processes run: `jmmda-node serve` with a configuration written for the occasion, the miniature PACS, and
this one, which plays the PACS's sending side, waits, measures and judges. Everything the demonstration claims it reads
from what came back over DICOM.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dicom_node.demo.judge import Verdict, judge
from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, child_process, free_port, wait_until_answering
from dicom_node.errors import Permanent, Transient
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession
from dicom_node.net.status import StoreCategory

if TYPE_CHECKING:
    from train.data.phantom import PhantomCase

PACS_AE: Final = "MINIPACS"
MARKER: Final = ".jmmda-demo"
#: How long the result of the demonstration may take; a slow single core needs about two minutes.
RESULT_TIMEOUT_S: Final = 600.0
#: How long the node gets to make the mistake of processing its own result.
LOOP_WATCH_S: Final = 6.0

#: Called with a sentence for the person who watches, and how far (0..1) the current step is, where that is known.
Tell = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demonstration runs with.

    Attributes
    ----------
    out : pathlib.Path
        Folder for everything it leaves.
    seed : int
        Seed of the phantom patient.
    bundle, device : str
        As in section ``[model]`` of node.toml.
    """

    out: Path
    seed: int = 2025
    bundle: str = "builtin"
    device: str = "auto"

    @property
    def source(self) -> Path:
        """Where the phantom CT study lies."""
        return self.out / "source"

    @property
    def received(self) -> Path:
        """Folder of the miniature PACS."""
        return self.out / "received"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was measured during the journey."""

    case: PhantomCase
    images_sent: int
    seconds_to_result: float
    loop_guard: bool
    status: dict[str, Any]


def prepare_folder(out: Path) -> None:
    """Make OUT, or empty what an earlier demonstration left in it.

    Raises
    ------
    Permanent
        `not_empty` when OUT holds anything else: the demonstration deletes only what it made itself.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / MARKER).exists():
        raise Permanent("not_empty", f"{out} is not empty and was not made by the demo; give another --out")
    for name in ("node", "source", "received"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("montage.png", "report.json"):
        (out / name).unlink(missing_ok=True)
    (out / MARKER).touch()


def _send(peer: Remote, paths: list[Path], tell: Tell, what: str) -> None:
    instances = [EncodedInstance.read(path) for path in paths]
    with StoreSession(peer, PACS_AE, {instance.need for instance in instances}) as session:
        for count, instance in enumerate(instances, start=1):
            result = session.send_encoded(instance)
            if result.category is not StoreCategory.SUCCESS:
                raise Transient("demo_send", f"the node did not take an image: {result.comment}")
            tell(what, count / len(instances))


def _received(plan: DemoPlan) -> list[Path]:
    return sorted(plan.received.rglob("*.dcm"))


def _wait_for_result(plan: DemoPlan, node: ThrowawayNode, expected: int, tell: Tell) -> float:
    """Wait until every slice has come back and return the seconds it took since the last CT slice was sent."""
    start = time.monotonic()
    while time.monotonic() < start + RESULT_TIMEOUT_S:
        count = len(_received(plan))
        if count >= expected:
            return time.monotonic() - start
        tell("waiting for the synthetic series", count / expected if count else None)
        if node.process is not None and node.process.poll() is not None:
            raise Permanent("demo_node", f"the node stopped; see {node.log}")
        time.sleep(0.1)
    raise Permanent("demo_timeout", f"no result within {RESULT_TIMEOUT_S:.0f} s; see {node.log}")


def _send_back(plan: DemoPlan, node: ThrowawayNode, tell: Tell) -> bool:
    """Send the result to the node, as an auto-routing PACS would, and say whether it made nothing of it."""
    before = _received(plan)
    _send(node.remote, before, tell, "sending the result back (loop guard)")
    end = time.monotonic() + LOOP_WATCH_S
    while time.monotonic() < end:
        if len(_received(plan)) != len(before):
            return False
        time.sleep(0.2)
    return True


def _journey(plan: DemoPlan, tell: Tell) -> _Seen:
    """Run node and PACS, send the study, wait for the result."""
    from train.data.phantom import generate_case
    from train.data.phantom_dicom import write_study

    pacs = Remote("minipacs", PACS_AE, "127.0.0.1", free_port())
    settings = ThrowawaySettings((pacs,), bundle=plan.bundle, device=plan.device, node_id="demo")
    node = ThrowawayNode(plan.out / "node", settings)
    node.write_config()
    tell("making the phantom patient (digital phantom, no real person)", None)
    case = generate_case(plan.seed, "A", matrix=512, n_slices=28, lesion="mca_division", side="left")
    write_study(case, plan.source)
    tell("starting node and miniature PACS", None)
    command = [sys.executable, "-m", "dicom_node.demo.pacs", "--port", str(pacs.port), "--folder", str(plan.received)]
    with ExitStack() as running:
        log = node.folder / "pacs.log"
        child = running.enter_context(child_process([*command, "--ae-title", PACS_AE], log))
        wait_until_answering(pacs, PACS_AE, child, log)
        running.enter_context(node.running())
        paths = sorted(plan.source.rglob("*.dcm"))
        _send(node.remote, paths, tell, "sending the CT study by C-STORE")
        waited_s = _wait_for_result(plan, node, case.ct_hu.shape[0], tell)
        loop_guard = _send_back(plan, node, tell)
        return _Seen(case, len(paths), waited_s, loop_guard, node.status())


def run_demo(plan: DemoPlan, tell: Tell) -> tuple[Verdict, dict[str, Any]]:
    """Run the whole demonstration and leave ``source/``, ``received/``, `montage.png` and `report.json` in OUT.

    Parameters
    ----------
    plan : DemoPlan
        Where to, and with which model.
    tell : Tell
        Called as the work goes on.

    Returns
    -------
    verdict : Verdict
        What was checked, and whether all of it held.
    report : dict
        Content of `report.json`.

    Raises
    ------
    Permanent, Transient
        When the demonstration could not be carried through.
    """
    prepare_folder(plan.out)
    start = time.monotonic()
    seen = _journey(plan, tell)
    tell("judging the result against the phantom's truth", None)
    verdict = judge(
        seen.case,
        plan.source,
        plan.received,
        plan.out / "montage.png",
        loop_guard=seen.loop_guard,
        bundle=plan.bundle,
    )
    report = {
        "result": "PASS" if verdict.passed else "FAIL",
        "note": "All figures are from a digital phantom; they say nothing about patients.",
        "checks": {check.name: {"passed": check.passed, "seen": check.seen} for check in verdict.checks},
        "phantom_metrics": verdict.metrics,
        "uids": verdict.uids,
        "ct_images_sent": seen.images_sent,
        "seconds_from_last_ct_image_to_last_result_image": round(seen.seconds_to_result, 2),
        "seconds_total": round(time.monotonic() - start, 2),
        "status": seen.status,
    }
    (plan.out / "report.json").write_text(json.dumps(report, indent=1))
    return verdict, report
