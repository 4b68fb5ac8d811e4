"""packaging/install.sh into a folder: what it puts where, over itself, a failure, removal with and without data.

`--no-deps` saves the download; the dependencies come from the environment of the tests. Left out: user and service,
which need a machine of their own (`test_deb`, `tests/peers/test_admin_guide`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.packages import PACKAGING, dependencies

pytestmark = pytest.mark.xdist_group("box")


def _install(root: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in (PACKAGING / "install.sh", "--root", root, *words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    _install(root, "--wheel", wheel, "--python", sys.executable, "--", "--no-deps")
    return root


@pytest.fixture
def own(installed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change: the order of tests is random."""
    return shutil.copytree(installed, tmp_path / "root", symlinks=True)


def _files(root: Path) -> set[str]:
    program = root / "opt" / "jmmda-node"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and program not in path.parents}


def test_it_puts_everything_in_its_place(installed: Path) -> None:
    assert _files(installed) == {
        "usr/local/bin/jmmda-node", "etc/systemd/system/jmmda-node.service", "etc/systemd/system/jmmda-node.slice",
        "etc/sysusers.d/jmmda-node.conf", "etc/jmmda-node/node.toml",
    }  # fmt: skip
    assert {path.name for path in (installed / "opt").iterdir()} == {"jmmda-node"}
    assert (installed / "var/lib/jmmda-node").is_dir()
    assert (installed / "etc/jmmda-node/node.toml").stat().st_mode & 0o777 == 0o640


def test_the_environment_is_made_for_its_final_place(installed: Path) -> None:
    program = installed / "opt/jmmda-node"
    assert (program / "bin/jmmda-node").read_text().startswith("#!/opt/jmmda-node/bin/python")
    found = subprocess.run(["grep", "-rlF", str(installed), program], capture_output=True, text=True)
    assert found.stdout == ""


def test_the_program_in_it_runs(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(dependencies())}
    command = [installed / "opt/jmmda-node/bin/python", "-m", "dicom_node.cli", "config", "check"]
    done = subprocess.run(
        [*command, installed / "etc/jmmda-node/node.toml"], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr


def test_again_it_keeps_what_is_yours_and_a_failure_changes_nothing(own: Path, wheel: Path, tmp_path: Path) -> None:
    settings, data = own / "etc/jmmda-node/node.toml", own / "var/lib/jmmda-node/ledger.sqlite"
    settings.write_text("# mine\n")
    data.write_text("data")
    left_over = own / "opt/jmmda-node/left-over"
    left_over.touch()
    broken = tmp_path / wheel.name
    broken.write_bytes(b"no wheel")
    failed = _install(own, "--wheel", broken, "--python", sys.executable, "--", "--no-deps", check=False)
    assert failed.returncode == 1
    assert "nothing was changed" in failed.stderr
    assert left_over.exists()
    _install(own, "--wheel", wheel, "--python", sys.executable, "--", "--no-deps")
    assert not left_over.exists(), "the environment is made anew"
    assert (settings.read_text(), data.read_text()) == ("# mine\n", "data")


def test_uninstalling_keeps_the_data_and_purging_says_what_it_deletes(own: Path) -> None:
    (own / "var/lib/jmmda-node/ledger.sqlite").write_text("data")
    told = _install(own, "--uninstall").stdout
    assert "stay in" in told
    assert _files(own) == {"etc/jmmda-node/node.toml", "var/lib/jmmda-node/ledger.sqlite"}
    assert not (own / "opt/jmmda-node").exists()
    assert _install(own, "--uninstall").returncode == 0, "a second time it finds nothing to do"
    told = _install(own, "--uninstall", "--purge").stdout
    assert "deleting" in told
    assert _files(own) == set()


@pytest.mark.parametrize(
    ("words", "reason"), [(["--wheel", "nothing.whl"], "name the wheel"), (["--whel", "x"], "unknown option --whel")]
)
def test_a_wrong_call_changes_nothing(tmp_path: Path, words: list[str], reason: str) -> None:
    done = _install(tmp_path, *words, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert list(tmp_path.iterdir()) == []
