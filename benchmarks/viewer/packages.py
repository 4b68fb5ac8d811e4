"""The pinned viewer and browser driver, fetched into a folder that git ignores.

The driver is installed by npm with the lock file beside this module. Of `@ohif/app` only the package itself is wanted,
the built viewer in its `dist/`; its own dependencies are already inside the bundles and would be hundreds of packages.
So it is fetched with `npm pack` and compared with the digest in `package.json`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
_STAMP: Final = "installed.json"


def pinned() -> tuple[str, str]:
    """Name with version of the viewer's package, and its digest in npm's form (`sha512-` and base64)."""
    viewer = json.loads((HERE / "package.json").read_text())["viewer"]
    return str(viewer["package"]), str(viewer["integrity"])


def digest_of(path: Path) -> str:
    """Digest of a file in npm's form."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _wanted() -> str:
    return json.dumps([(HERE / name).read_text() for name in ("package.json", "package-lock.json")])


def installed(folder: Path) -> bool:
    """Whether the folder holds exactly what is pinned."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == _wanted()


def _npm(folder: Path, *words: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm not found; the viewer and the driver of the browser come from its registry (Node.js 18+)")
    subprocess.run(
        [npm, *words, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=folder, check=True
    )


def _unpack(archive: Path, folder: Path) -> None:
    shutil.rmtree(folder / "package", ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")


def ensure(folder: Path) -> Path:
    """Fetch what is missing, and return the folder of the built viewer.

    Parameters
    ----------
    folder : pathlib.Path
        Where to; afterwards it holds `node_modules/` and `package/dist/`.
    """
    dist = folder / "package" / "dist"
    if installed(folder) and (dist / "index.html").is_file():
        return dist
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(HERE / name, folder / name)
    _npm(folder, "ci")
    package, integrity = pinned()
    for old in folder.glob("*.tgz"):
        old.unlink()
    _npm(folder, "pack", package)
    (archive,) = folder.glob("*.tgz")
    if digest_of(archive) != integrity:
        raise SystemExit(f"{archive.name} is not the pinned {package}: its digest differs")
    _unpack(archive, folder)
    archive.unlink()
    (folder / _STAMP).write_text(_wanted())
    return dist
