"""The service's end of the worker: starts the process, hands it one job at a time, and outlives it whatever it does.

The worker (`dicom_node.synthesize.worker`) is a child process, so that running out of memory, crashing or hanging costs
a job's attempt and nothing else. This module imports neither torch nor NumPy.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import NodeError, Permanent, Refused, Transient

logger = logging.getLogger(__name__)

#: Longest time for loading, warming up and testing the model.
START_LIMIT_S: Final = 300.0
#: A worker that says nothing for this long during a job is taken for stuck.
SILENCE_LIMIT_S: Final = 120.0
_STOP_LIMIT_S: Final = 5.0
#: The worker's own exit code for lack of memory.
_EXIT_OUT_OF_MEMORY: Final = 70


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """What a worker says of itself once it can work.

    Attributes
    ----------
    pid : int
        Process.
    device, precision : str
        Where and how it computes.
    bundle : Mapping[str, object]
        Facts of the loaded bundle; enter every label.
    """

    pid: int
    device: str
    precision: str
    bundle: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerDone:
    """A job that ended well: wall seconds per step and the flags of the brain mask."""

    seconds: Mapping[str, float]
    quality_flags: tuple[str, ...]


#: Called with (step, done, total) whenever the worker gives a sign of life.
OnProgress = Callable[[str, int, int], None]


def worker_command(*, bundle: str, device: str, precision: str, threads: int | None) -> tuple[str, ...]:
    """Return the command line of a worker."""
    options = ["--bundle", bundle, "--device", device, "--precision", precision]
    if threads is not None:
        options += ["--threads", str(threads)]
    return (sys.executable, "-m", "dicom_node.synthesize", *options)


class WorkerClient:
    """One worker process. Used by one thread; only `stop` may be called from another.

    Parameters
    ----------
    command : sequence of str
        How to start it, `worker_command` in the node.
    time_limit_s : float
        Longest time of one job.
    silence_limit_s, start_limit_s : float
        Longest silence during a job; longest time until it is ready.

    Attributes
    ----------
    time_limit_s : float
        May be set anew; it holds from the next job on.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        time_limit_s: float,
        silence_limit_s: float = SILENCE_LIMIT_S,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        self._command = tuple(command)
        self.time_limit_s = time_limit_s
        self._silence_limit_s = silence_limit_s
        self._start_limit_s = start_limit_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader: threading.Thread | None = None
        self._changing = threading.Lock()
        self._stopping = False
        self.ready: WorkerReady | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs and has said that it is ready."""
        return self.ready is not None and self._process is not None and self._process.poll() is None

    def start(self) -> WorkerReady:
        """Start the process and wait until it is ready.

        Raises
        ------
        Permanent
            When the worker says why it cannot start (bundle, device): starting it again would change nothing.
        Transient
            ``worker_died`` or ``worker_silent``.
        """
        self._end()
        self._launch()
        event = self._next_event(self._start_limit_s, "worker_silent", "to become ready")
        if event.get("event") == "failed":
            self._end()
            raise Permanent(str(event.get("code")), str(event.get("reason")))
        if event.get("event") != "ready":
            self._end()
            raise Transient("worker_protocol", "the worker did not say that it is ready")
        self.ready = WorkerReady(
            pid=int(event["pid"]),
            device=str(event["device"]),
            precision=str(event.get("precision", "")),
            bundle=dict(event["bundle"]),
        )
        logger.info("worker %d is ready on %s", self.ready.pid, self.ready.device)
        return self.ready

    def run(
        self,
        job: str,
        files: Sequence[Path],
        out: Path,
        on_progress: OnProgress,
        *,
        frames: Sequence[int | None] = (),
        eligibility: Mapping[str, float] | None = None,
    ) -> WorkerDone:
        """Have one job done.

        Parameters
        ----------
        job : str
            Its key.
        files : sequence of Path
            CT files in the order of the gate.
        out : Path
            Existing folder that receives ``result.npz`` and ``result.json``.
        on_progress : callable
            Called at every sign of life.
        frames : sequence of int or None
            Which frame of each file (Enhanced CT), None for all of it; empty when there are only whole files.
        eligibility : Mapping[str, float], optional
            Section ``[eligibility]`` of the settings; the worker's defaults when left out.

        Returns
        -------
        WorkerDone
            The result files are complete.

        Raises
        ------
        Refused
            By a documented rule of the worker (no brain, off the grid).
        Permanent
            It would fail again unchanged.
        Transient
            The worker died, hung or ran over the time limit (it is stopped then), or asks to try again.
        """
        request: dict[str, object] = {"job": job, "files": [str(path) for path in files], "frames": list(frames)}
        self._say({**request, "out": str(out), "eligibility": dict(eligibility) if eligibility else None})
        deadline = time.monotonic() + self.time_limit_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= self._silence_limit_s:
                event = self._next_event(left_s, "worker_timeout", f"with job {job} (time_limit_s)")
            else:
                event = self._next_event(self._silence_limit_s, "worker_silent", f"to say anything of job {job}")
            if event.get("job") != job:
                continue
            match event.get("event"):
                case "progress":
                    on_progress(str(event.get("step", "")), int(event["done"]), int(event["total"]))
                case "done":
                    return WorkerDone(dict(event.get("seconds", {})), tuple(event.get("quality_flags", ())))
                case _:
                    raise _outcome(event)

    def stop(self) -> None:
        """End the process for good; a job under way is given up and its `run` raises `Transient`."""
        self._stopping = True
        self._end()

    def _launch(self) -> None:
        """Start process and reader as one step, so that `stop` from another thread meets both or neither."""
        with self._changing:
            if self._stopping:
                raise Transient("worker_stopped", "the service is stopping")
            lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
            process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
            reader = threading.Thread(target=_pump, args=(process, lines), name="worker-lines", daemon=True)
            reader.start()
            self._process, self._reader, self._lines = process, reader, lines

    def _say(self, request: Mapping[str, object]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise self._died()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._died() from None

    def _next_event(self, limit_s: float, code: str, doing: str) -> dict[str, Any]:
        """Return the next line of the worker, or stop it and raise when there is none in time."""
        try:
            event = self._lines.get(timeout=max(limit_s, 0.001))
        except queue.Empty:
            self._end()
            reason = f"the worker took too long {doing} and was stopped"
            raise Transient(code, reason, {"limit_s": round(limit_s, 1)}) from None
        if event is None:
            raise self._died()
        return event

    def _died(self) -> Transient:
        """Tell how the process ended."""
        process = self._process
        code = process.wait() if process is not None else None
        self._end()
        if self._stopping:
            return Transient("worker_stopped", "the service is stopping")
        if code in (_EXIT_OUT_OF_MEMORY, -9):
            reason = "the worker was killed, most likely for lack of memory"
        else:
            reason = "the worker ended unexpectedly; its last lines are in the log"
        return Transient("worker_died", reason, {"exit_code": code})

    def _end(self) -> None:
        """End the process: a closed input first, then signals."""
        with self._changing:
            process, reader = self._process, self._reader
            self._process = self._reader = self.ready = None
        if process is None or reader is None:
            return
        if process.poll() is None:
            process.terminate() if self._stopping else process.kill()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        # The reader ends by itself with the pipe, which a child of the worker could still hold open.
        reader.join(_STOP_LIMIT_S)


def _pump(process: subprocess.Popen[str], lines: queue.Queue[dict[str, Any] | None]) -> None:
    """Put every line of the worker into the queue, and None at the end."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            event = _parsed(line)
            if event is not None:
                lines.put(event)
    lines.put(None)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        logger.warning("the worker wrote a line that is no event (%d characters)", len(line))
        return None
    return event if isinstance(event, dict) else None


def _outcome(event: Mapping[str, Any]) -> NodeError:
    """Turn the worker's words into the error that decides what happens next."""
    code, reason = str(event.get("code", "internal")), str(event.get("reason", ""))
    figures = event.get("figures") or {}
    if event.get("event") == "refused":
        return Refused(code, reason, figures)
    if event.get("retry"):
        return Transient(code, reason, figures)
    return Permanent(code, reason, figures)
