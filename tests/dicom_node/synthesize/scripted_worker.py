"""A worker process that speaks the protocol and behaves as its command line says; run as a script.

The real worker needs a network and cannot be made to hang or to run out of memory on cue.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def say(**event: object) -> None:
    write(json.dumps(event))


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def begin(how: str) -> None:
    """Start as told: well, not at all, or without a word."""
    if how == "refuse-start":
        say(event="failed", job=None, code="bundle_hash", reason="the weights do not match their hash", retry=False)
        sys.exit(2)
    if how == "die-at-start":
        sys.exit(3)
    if how == "silent-start":
        time.sleep(60)
    say(event="ready", pid=os.getpid(), device="cpu", precision="fp32", bundle={"name": "scripted", "sha256": "00"})


def noise() -> None:
    write("a library speaks on standard output")
    say(event="done", job="another job", seconds={})
    say(event="done", job="noise", seconds={"network": 1.5}, quality_flags=["volume"])


def endless(job: str = "endless") -> None:
    while True:
        say(event="progress", job=job, step="network", done=1, total=2)
        time.sleep(0.05)


def fail(job: str, code: str, *, retry: bool) -> None:
    say(event="failed", job=job, code=code, reason="as told", figures={}, retry=retry)


def slow(job: str) -> None:
    time.sleep(1.5)
    done(job)


def done(job: str) -> None:
    say(event="done", job=job, seconds={"network": 0.1}, quality_flags=[])


BEHAVIOUR = {
    "noise": lambda job: noise(),
    "refuse": lambda job: say(event="refused", job=job, code="no_brain", reason="none", figures={"volume_ml": 12.0}),
    "permanent": lambda job: fail(job, "pixel_data", retry=False),
    "passing": lambda job: fail(job, "internal", retry=True),
    "out-of-memory": lambda job: sys.exit(70),
    "killed": lambda job: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda job: sys.exit(1),
    "hang": lambda job: time.sleep(60),
    "endless": endless,
    "slow": slow,
    "good": done,
}


def main(how: str, behaviour: str | None) -> None:
    """Serve jobs; what is done with one is told by the command line, or else by the job's key."""
    begin(how)
    for line in sys.stdin:
        request = json.loads(line)
        say(event="progress", job=request["job"], step="read", done=1, total=len(request["files"]))
        BEHAVIOUR[behaviour or request["job"]](request["job"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
