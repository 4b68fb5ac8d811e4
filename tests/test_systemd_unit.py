"""The systemd files are well-formed and hardened, by systemd's own judgement, with and without drop-ins.

Left out: starting the unit (`tests/packaging/test_deb`, `tests/peers/test_admin_guide`: on a machine with its own
systemd) and what the node tells systemd (`tests/dicom_node/test_node_supervisor`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "systemd"
UNIT = FOLDER / "jmmda-node.service"
DROP_INS = ("gpu.conf", "credentials.conf", "port-104.conf")

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """Copy unit and slice with programs that exist, which `verify` asks for, and perhaps a drop-in; return the unit."""

    def made(drop_in: str | None = None) -> Path:
        copy = tmp_path / UNIT.name
        copy.write_text(re.sub(r"/opt/jmmda-node/bin/[a-z-]+", "/bin/true", UNIT.read_text()))
        shutil.copy(FOLDER / "jmmda-node.slice", tmp_path)
        if drop_in is not None:
            (tmp_path / f"{UNIT.name}.d").mkdir()
            shutil.copy(FOLDER / drop_in, tmp_path / f"{UNIT.name}.d")
        return copy

    return made


def _analyze(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("drop_in", [None, *DROP_INS])
def test_systemd_accepts_the_unit(place: Callable[..., Path], drop_in: str | None) -> None:
    done = _analyze("verify", place(drop_in))
    assert done.returncode == 0
    assert UNIT.name not in done.stderr, done.stderr
    assert "jmmda-node.slice" not in done.stderr, done.stderr


def test_a_misspelt_key_would_be_noticed(place: Callable[..., Path]) -> None:
    unit = place()
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert "ProtectHoem" in _analyze("verify", unit).stderr


@pytest.mark.parametrize("drop_in", [None, *DROP_INS])
def test_the_unit_is_hardened(place: Callable[..., Path], drop_in: str | None) -> None:
    done = _analyze("security", "--offline=yes", "--threshold=20", place(drop_in))
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure.group(1)) <= 2.0


def _settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Z]\w+)=(.*)$", path.read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


def test_the_data_have_one_owner_and_one_place() -> None:
    unit = _settings(UNIT)
    assert "DynamicUser" not in unit
    assert unit["User"] == ["jmmda-node"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["StateDirectory"] == ["jmmda-node"]
    assert not {"ReadWritePaths", "BindPaths", "CacheDirectory", "LogsDirectory", "ConfigurationDirectory"} & set(unit)
    assert re.search(r"^u jmmda-node ", (FOLDER / "sysusers.conf").read_text(), re.M)


def test_faults_in_the_settings_are_no_reason_to_start_again() -> None:
    unit = _settings(UNIT)
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert {"StartLimitIntervalSec", "StartLimitBurst", "WatchdogSec"} <= set(unit)
    # A watchdog that fires again and again must not run into the start limit.
    per_interval = int(unit["StartLimitIntervalSec"][0]) / int(unit["WatchdogSec"][0])
    assert per_interval < int(unit["StartLimitBurst"][0])


def test_memory_is_limited_and_its_end_does_not_stop_the_node() -> None:
    unit = _settings(UNIT)
    assert unit["Slice"] == ["jmmda-node.slice"]
    assert unit["OOMPolicy"] == ["continue"]
    assert "MemoryMax" in _settings(FOLDER / "jmmda-node.slice")
