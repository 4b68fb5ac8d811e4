"""The worker process: one per device, long-lived, warm; takes jobs as JSON lines and leaves result files.

It never opens the ledger and knows no peer. Protocol (one JSON object a line; the service writes to the worker's
standard input, the worker answers on its standard output):

====================  ==============================================================================================
service to worker     ``{"job": KEY, "files": [PATH, ...], "frames": [NUMBER | null, ...], "out": FOLDER,
..                    "eligibility": {NAME: LIMIT, ...} | null}``
worker to service     ``{"event": "ready", "device": ..., "precision": ..., "bundle": {...}, "pid": ...}`` once
..                    ``{"event": "progress", "job": KEY, "step": ..., "done": I, "total": N}``: also the heartbeat
..                    ``{"event": "done" | "refused" | "failed", "job": KEY, ...}``: the job's outcome, once
====================  ==============================================================================================

The end of standard input (the service is gone) ends the process, so no worker outlives its service.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dicom_node.dicom.reading import install_pydicom_privacy
from dicom_node.errors import NodeError, Permanent, Refused
from dicom_node.ledger.place import place_of
from dicom_node.ledger.result_file import write_result

if TYPE_CHECKING:
    from jmmda_model.runtime import Runtime

logger = logging.getLogger(__name__)

#: Highest value of ``oom_score_adj`` (man 5 proc_pid_oom_score_adj).
_FIRST_TO_GO = "1000"

EXIT_CANNOT_START = 2
EXIT_OUT_OF_MEMORY = 70


class Channel:
    """The line-wise JSON channel to the service.

    Libraries (native ones too) may write to standard output; the channel therefore keeps a private copy of it and
    points file descriptor 1 at standard error.
    """

    def __init__(self) -> None:
        private = os.dup(1)
        os.dup2(2, 1)
        self._out: TextIO = os.fdopen(private, "w", encoding="utf-8")

    def say(self, event: str, **fields: object) -> None:
        """Send one event; a vanished service ends the worker."""
        try:
            self._out.write(json.dumps({"event": event, **fields}) + "\n")
            self._out.flush()
        except BrokenPipeError:
            os._exit(0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dicom_node.synthesize", description=__doc__)
    parser.add_argument("--bundle", default="builtin", help="bundle folder, or 'builtin'")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto or fp32")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the network")
    return parser.parse_args(argv)


def run_job(channel: Channel, runtime: Runtime, request: Mapping[str, object]) -> None:
    """Do one job and answer with its outcome; only a lack of memory passes on, since the process is then unsound."""
    from dicom_node.synthesize.pipeline import synthesize_series

    job = str(request["job"])
    paths = [Path(str(name)) for name in _listed(request["files"])]
    frames = [int(str(frame)) if frame is not None else None for frame in _listed(request.get("frames", []))]

    limits = request.get("eligibility")
    eligibility = {str(name): float(value) for name, value in limits.items()} if isinstance(limits, dict) else None

    def progress(step: str, done: int, total: int) -> None:
        channel.say("progress", job=job, step=step, done=done, total=total)

    try:
        result = synthesize_series(paths, runtime, progress, frames=frames, eligibility=eligibility)
        write_result(Path(str(request["out"])), result)
    except Refused as error:
        channel.say("refused", job=job, code=error.code, reason=error.reason, figures=error.figures)
    except NodeError as error:
        retry = not isinstance(error, Permanent)
        channel.say("failed", job=job, code=error.code, reason=error.reason, figures=error.figures, retry=retry)
    except MemoryError:
        channel.say(
            "failed",
            job=job,
            code="out_of_memory",
            reason="the worker ran out of memory",
            figures={},
            retry=True,
        )
        raise
    except Exception as error:  # noqa: BLE001  # border of the worker: whatever a library throws must become a named state
        logger.error("job %s failed: %s", job, place_of(error))
        channel.say("failed", job=job, code="internal", reason=place_of(error), figures={}, retry=True)
    else:
        channel.say("done", job=job, seconds=dict(result.seconds), quality_flags=list(result.quality_flags))


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise Permanent("protocol", "a job needs a list of files")
    return value


def serve_jobs(channel: Channel, runtime: Runtime) -> None:
    """Answer jobs until standard input ends."""
    for line in sys.stdin:
        if line.strip():
            run_job(channel, runtime, json.loads(line))


def _go_first_when_memory_ends() -> None:
    """Ask the kernel to take this process, and not the receiver or the service, when memory runs out.

    The worker holds most of the memory, and its death costs one attempt of one job. Raising the value needs no
    privilege.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the worker process: load the bundle, warm up, say `ready`, then serve."""
    arguments = _arguments(argv)
    # An interactive Ctrl-C reaches the whole process group; the supervisor alone decides how to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _go_first_when_memory_ends()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    install_pydicom_privacy()
    channel = Channel()
    from dicom_node.synthesize.facts import bundle_facts
    from dicom_node.synthesize.pipeline import load_runtime

    try:
        runtime = load_runtime(
            arguments.bundle, device=arguments.device, precision=arguments.precision, threads=arguments.threads
        )
        test = runtime.self_test()
    except Permanent as error:
        channel.say("failed", job=None, code=error.code, reason=error.reason, figures={}, retry=False)
        sys.exit(EXIT_CANNOT_START)
    channel.say(
        "ready",
        pid=os.getpid(),
        device=test.device,
        precision=test.precision,
        self_test_seconds=round(test.seconds, 3),
        bundle=asdict(bundle_facts(runtime.bundle)),
    )
    try:
        serve_jobs(channel, runtime)
    except MemoryError:
        sys.exit(EXIT_OUT_OF_MEMORY)
