"""A wheel of the working tree, a quick package made of it, and a throwaway machine with its own systemd to try it in.

The quick package holds the program without its dependencies (`pip --no-deps`), so that it is made in seconds; in the
machine they come from the environment that runs the tests.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGING = REPOSITORY / "packaging"
#: Where a machine of `box` sees the dependencies.
SITE = "/opt/site-packages"
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")


@functools.cache
def built_wheel() -> Path:
    """Build the wheel of the tree as git sees it, once a process, and return its path."""
    folder = _folder()
    tree = folder / "tree"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tree / name)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(tree),
    ]
    subprocess.run(pip, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@functools.cache
def quick_package() -> Path:
    """Build the package without dependencies and without compression, once a process, and return its path."""
    command = [PACKAGING / "build_deb.sh", "--wheel", built_wheel(), "--python", PYTHON, "--out", _folder()]
    environment = {**os.environ, "DEB_COMPRESSION": "-Znone"}
    done = subprocess.run([*command, "--", "--no-deps"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="jmmda-package-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def why_no_box() -> str | None:
    """Why no throwaway machine can be had here, or None where it can."""
    missing = [
        name for name in ("unshare", "nsenter", "systemctl", "dpkg-deb", "apt-get") if shutil.which(name) is None
    ]
    if missing:
        return f"{', '.join(missing)} not found"
    if os.geteuid() != 0:
        return "only root can make a throwaway machine"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs"
    if not PYTHON.exists():
        return f"{PYTHON} is not there, so that a package cannot use the dependencies of this environment"
    probe = subprocess.run([PYTHON, "-c", "import ensurepip"], capture_output=True)
    return "python3-venv is not installed" if probe.returncode else None


class Box:
    """A running throwaway machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *words: object) -> list[str]:
        """Return the command line that runs a command in it."""
        return [str(word) for word in (PACKAGING / "box.sh", "run", self.folder, *words)]

    def run(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=150)
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def shell(self, text: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in root's home."""
        return self.run("sh", "-c", f"cd /root && {text}", check=check)

    def write(self, path: str, text: str) -> None:
        """Write a file in it."""
        subprocess.run(
            self.command("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}"), input=text.encode(), check=True
        )

    def lend_dependencies(self) -> None:
        """Let the environment of a quick package find the dependencies in `SITE`; survives its upgrades."""
        self.write(f"/opt/jmmda-node/lib/{PYTHON.name}/site-packages/dependencies.pth", SITE + "\n")


@contextmanager
def running_box(folder: Path, *shown: str) -> Iterator[Box]:
    """Boot a throwaway machine; `shown` are folders, or FOLDER:PLACE, that stay in sight in it.

    Raises
    ------
    AssertionError
        When systemd does not come up in it.
    """
    done = subprocess.run([PACKAGING / "box.sh", "start", folder, *shown], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    try:
        yield Box(folder)
    finally:
        subprocess.run([PACKAGING / "box.sh", "stop", folder], check=True, timeout=60)


def dependencies() -> Path:
    """Folder of the packages that the tests themselves use."""
    return Path(sysconfig.get_paths()["purelib"])
