"""Each check of `make check` is able to fail: a bad sample is given to it under the project's own configuration.

Left out: that the checks pass on the sources, which `make check` itself shows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(not (TOOLS / "ruff").exists(), reason="the lint tools are not installed")


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOLS / command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A folder with the project's configuration and nothing else."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_formatter_notices_a_badly_formatted_file(sample: Path) -> None:
    (sample / "bad.py").write_text('x = { "a":1 }\n')
    assert _run(sample, "ruff", "format", "--check", "bad.py").returncode == 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("import os\n", "F401"),
        ("print('x')\n", "T201"),
        ("try:\n    x = 1\nexcept Exception:\n    x = 2\n", "BLE001"),
        ("def f(x):\n    return x\n", "ANN001"),
        ("def f() -> None:\n    pass\n", "D103"),
        ("eval('1')\n", "S307"),
    ],
)
def test_the_linter_notices(sample: Path, text: str, rule: str) -> None:
    (sample / "bad.py").write_text(text)
    done = _run(sample, "ruff", "check", "bad.py")
    assert done.returncode == 1
    assert rule in done.stdout


def test_the_type_checker_notices_a_wrong_type(sample: Path) -> None:
    (sample / "bad.py").write_text('def length_mm() -> float:\n    return "long"\n')
    assert _run(sample, "mypy", "--no-incremental", "bad.py").returncode == 1


def test_the_spelling_check_notices_a_slip(sample: Path) -> None:
    slip = "rec" + "ieve"
    (sample / "bad.py").write_text(f'"""To {slip} images."""\n')
    assert _run(sample, "codespell", "bad.py").returncode != 0


def test_the_import_rules_notice_a_stage_that_imports_another(sample: Path) -> None:
    for package in ("dicom_node", "jmmda_model", "train"):
        shutil.copytree(
            REPOSITORY / package, sample / package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
        )
    (sample / "dicom_node" / "receive" / "shortcut.py").write_text("from dicom_node.derive import writer\n")
    done = _run(sample, "lint-imports", "--no-cache")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Stages do not import each other BROKEN" in done.stdout
