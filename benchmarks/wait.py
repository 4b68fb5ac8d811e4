"""From the last image to "the series is complete", on a PACS that answers C-FIND and on one that is not asked.

    python -m benchmarks.wait [--rounds 3]

A real `jmmda-node serve` with the waits of the shipped node.toml gets series of a head CT over real associations from a
peer that is also its archive. The moments are those that the node's own ledger keeps; the last image is the one whose
bytes were durable last. "queued" is the end of the wait: the study is decided and the model may begin.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, StudyRootQueryRetrieveInformationModelFind, Verification

from benchmarks.common import ct_series, machine, table
from benchmarks.processes import CALLING_AE, _copy_with_new_uids, _send
from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from dicom_node.settings import IntakeSettings
from jmmda_model.bundle import make_untrained_bundle

#: What is sent: name, and which of the 28 slices.
SHAPES = {
    "whole head": lambda number: True,
    "two slices missing": lambda number: number not in (11, 12),
    "the first five slices": lambda number: number < 5,
}
PATIENCE_S = 120.0


@contextmanager
def archive(port: int, held: dict[str, tuple[str, int]]) -> Iterator[None]:
    """Answer C-FIND at SERIES level from `held` (study to series and count), and take results."""

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        study = str(event.identifier.StudyInstanceUID)
        if study in held:
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.Modality = "SERIES", "CT"
            answer.StudyInstanceUID, answer.SeriesInstanceUID = study, held[study][0]
            answer.NumberOfSeriesRelatedInstances = held[study][1]
            yield 0xFF00, answer

    entity = AE(CALLING_AE)
    for sop_class in (MRImageStorage, StudyRootQueryRetrieveInformationModelFind, Verification):
        entity.add_supported_context(sop_class)
    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_STORE, lambda event: 0x0000)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield
    finally:
        server.shutdown()


def _wait_ready(node: ThrowawayNode) -> None:
    """Let the worker load its libraries first: while it does, every other process waits for the processor."""
    end = time.monotonic() + PATIENCE_S
    while (node.status()["processes"].get("worker") or {}).get("state") != "ready":
        if time.monotonic() > end:
            raise SystemExit("the worker did not get ready")
        time.sleep(0.5)


def _story(node: ThrowawayNode, uid: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = [one for one in node.ask("series", "list", "--json")["series"] if one["series_instance_uid"] == uid]
        if found and found[0]["state"] not in ("RECEIVING", "COMPLETE"):
            (story,) = node.ask("series", "show", uid, "--json")
            return dict(story)
        time.sleep(0.5)
    raise SystemExit(f"a series was not decided after {PATIENCE_S:.0f} s")


def _waits(story: dict[str, Any]) -> tuple[float, float]:
    """Seconds from the last image to COMPLETE, and to the decision of the study."""
    last = datetime.fromisoformat(story["last_arrival_at"])
    steps = [event for event in story["history"] if event["kind"] == "state"]
    moments = [datetime.fromisoformat(event["at"]) for event in steps[:2]]
    complete_s, decided_s = ((moment - last).total_seconds() for moment in moments)
    return complete_s, decided_s


def measure(rounds: int, *, query: bool) -> dict[str, list[tuple[float, float]]]:
    """Send every shape `rounds` times to one node, and return both waits of each."""
    intake = IntakeSettings()
    found: dict[str, list[tuple[float, float]]] = {shape: [] for shape in SHAPES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, _ = ct_series(folder / "ct")
        ordered = sorted(paths, key=lambda path: dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])
        peer = Remote("pacs", CALLING_AE, "127.0.0.1", free_port())
        bundle = make_untrained_bundle(folder / "bundle", size="tiny").path
        settings = ThrowawaySettings(
            (peer,), bundle=str(bundle), device="cpu", settle_s=intake.settle_s, quiet_s=intake.quiet_s,
            study_quiet_s=intake.study_quiet_s, query=query,
        )  # fmt: skip
        node = ThrowawayNode(folder / "node", settings)
        held: dict[str, tuple[str, int]] = {}
        assert peer.port is not None
        with archive(peer.port, held), node.running():
            _wait_ready(node)
            for number in range(rounds * len(SHAPES)):
                shape = list(SHAPES)[number % len(SHAPES)]
                chosen = [path for place, path in enumerate(ordered) if SHAPES[shape](place)]
                copies = _copy_with_new_uids(chosen, folder / f"series{number}", number)
                head = dcmread(copies[0], stop_before_pixels=True)
                held[str(head.StudyInstanceUID)] = (str(head.SeriesInstanceUID), len(copies))
                _send(node, copies)
                found[shape].append(_waits(_story(node, str(head.SeriesInstanceUID))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    found = {
        "answers C-FIND": measure(arguments.rounds, query=True),
        "is not asked": measure(arguments.rounds, query=False),
    }
    print(f"## Wait after the last image, median and longest of {arguments.rounds}\n\n{machine()}\n")
    rows: list[tuple[object, ...]] = []
    for peer, shapes in found.items():
        for shape, waits in shapes.items():
            complete, decided = zip(*waits, strict=True)
            figures = (statistics.median(complete), max(complete), statistics.median(decided), max(decided))
            rows.append((peer, shape, *figures))
    print(table(("the PACS", "series", "complete s", "longest", "study decided s", "longest"), rows))
    print("\ngoal on a PACS that answers C-FIND: under 3 s\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
