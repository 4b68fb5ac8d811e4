"""Checks of the machine around the node: its clock, its time zone, and what starts the node."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from dicom_node.dicom.output_rules import zone_named
from dicom_node.operate.doctor.findings import US, Finding, passed, warned
from dicom_node.settings import Settings

UNIT: Final = "jmmda-node.service"
#: Where systemd looks for units (systemd.unit(5)), the administrator's first.
UNIT_FOLDERS: Final = (
    Path("/etc/systemd/system"),
    Path("/run/systemd/system"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
)

#: Larger than any layout of the kernel's struct timex; zeros ask and set nothing (adjtimex(2)).
_TIMEX_BYTES: Final = 512
_TIME_ERROR: Final = 5


def machine(settings: Settings, unit_folders: Sequence[Path] = UNIT_FOLDERS) -> list[Finding]:
    """Examine clock, time zone and unit."""
    return [_clock(_clock_state()), _time_zone(settings), _unit(unit_folders)]


def _clock_state() -> int:
    """State of the kernel's clock (adjtimex(2)); -1 when it may not be asked."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return -1


def _clock(state: int) -> Finding:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    if state == _TIME_ERROR:
        remedy = "switch on time synchronisation (chrony, systemd-timesyncd): results and certificates depend on it"
        return warned("machine.clock", f"{now}; the kernel says that it is not synchronised", US, remedy)
    return passed("machine.clock", f"{now}; {'synchronised' if state >= 0 else 'whether synchronised is not known'}")


def _time_zone(settings: Settings) -> Finding:
    name = settings.output.time_zone
    here = datetime.now().astimezone()
    there = here.astimezone(zone_named(name))
    seen = f"output.time_zone is {name} ({there:%z}), this machine is at {here:%z}"
    if here.utcoffset() == there.utcoffset():
        return passed("machine.time_zone", seen)
    remedy = "set output.time_zone to the zone of the hospital: results of a CT without offset carry times of that zone"
    return warned("machine.time_zone", seen, US, remedy)


def _unit(folders: Sequence[Path]) -> Finding:
    found = next((folder / UNIT for folder in folders if (folder / UNIT).is_file()), None)
    if found is None:
        remedy = "install systemd/jmmda-node.service, so that the node starts with the machine and is watched"
        return warned("machine.unit", f"no {UNIT}", US, remedy)
    wanted = any(list(folder.glob(f"*.wants/{UNIT}")) for folder in folders)
    if not wanted:
        return warned("machine.unit", f"{found}, not enabled", US, f"systemctl enable {UNIT}")
    return passed("machine.unit", f"{found}, enabled")
