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


def endless() -> None:
    while True:
        say(event="progress", job="endless", step="network", done=1, total=2)
        time.sleep(0.05)


def fail(job: str, code: str, *, retry: bool) -> None:
    say(event="failed", job=job, code=code, reason="as told", figures={}, retry=retry)


BEHAVIOUR = {
    "noise": noise,
    "refuse": lambda: say(event="refused", job="refuse", code="no_brain", reason="none", figures={"volume_ml": 12.0}),
    "permanent": lambda: fail("permanent", "pixel_data", retry=False),
    "passing": lambda: fail("passing", "internal", retry=True),
    "out-of-memory": lambda: sys.exit(70),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: sys.exit(1),
    "hang": lambda: time.sleep(60),
    "endless": endless,
    "good": lambda: say(event="done", job="good", seconds={"network": 0.1}, quality_flags=[]),
}


def main(how: str) -> None:
    begin(how)
    for line in sys.stdin:
        request = json.loads(line)
        say(event="progress", job=request["job"], step="read", done=1, total=len(request["files"]))
        BEHAVIOUR[request["job"]]()


if __name__ == "__main__":
    main(sys.argv[1])
