"""`make bench`: every measurement, one after the other, tables on standard output and JSON files in `.bench/`."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import REPOSITORY

MEASUREMENTS = ("stages", "wait", "processes", "receive")


def main() -> None:
    folder = REPOSITORY / ".bench"
    folder.mkdir(exist_ok=True)
    for name in MEASUREMENTS:
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json")]
        subprocess.run(command, check=True, cwd=REPOSITORY)


if __name__ == "__main__":
    main()
