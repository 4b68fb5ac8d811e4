"""The wheel carries all that the node needs, and works outside the checkout.

Built from the tree, unpacked into an empty folder, and run from there: bundle, migrations, settings template, recipes.
Left out: the installation of the dependencies, which every other test already uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    tree = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run([*command, str(tree)], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_packages_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import dicom_node, jmmda_model, train; print(dicom_node.__file__, jmmda_model.__file__, train.__file__)"
    done = _run(installed, tmp_path, "-c", code)
    assert all(name.startswith(str(installed)) for name in done.stdout.split()), done.stdout + done.stderr


def test_the_bundle_that_ships_verifies(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, tmp_path, "-m", "dicom_node.cli", "model", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_are_written_from_the_template_and_a_ledger_is_made(installed: Path, tmp_path: Path) -> None:
    assert _run(installed, tmp_path, "-m", "dicom_node.cli", "config", "init", "node.toml", "--yes").returncode == 0
    code = (
        "from pathlib import Path; from dicom_node.ledger.spool import SpoolPaths; from dicom_node.ledger.store import "
        "Ledger; paths = SpoolPaths(Path('data')); paths.make(); Ledger.open(paths); print('made')"
    )
    done = _run(installed, tmp_path, "-c", code)
    assert "made" in done.stdout, done.stderr
    assert (tmp_path / "data" / "ledger.sqlite").exists()


def test_the_recipes_are_there(installed: Path) -> None:
    assert {path.name for path in (installed / "config" / "train").glob("*.toml")} >= {
        "compact-phantom.toml",
        "quick.toml",
    }
