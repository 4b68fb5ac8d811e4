"""Everything that the doctor looks at, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.ledger.spool import SpoolPaths
from dicom_node.operate.doctor import back, peers
from dicom_node.operate.doctor.certificates import certificates
from dicom_node.operate.doctor.findings import GROUPS, US, Finding, Mark, failed, passed
from dicom_node.operate.doctor.here import accessible, data_folder
from dicom_node.operate.doctor.machine import UNIT_FOLDERS, machine
from dicom_node.operate.doctor.model import model
from dicom_node.operate.doctor.records import Records, records
from dicom_node.operate.doctor.running import processes, titles
from dicom_node.operate.state import settings_in_force
from dicom_node.settings import Peer, Role, Settings, SettingsError, load_settings

#: Peers are called at once, so that some that do not answer cost one time-out, not one each.
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Request:
    """What to examine.

    Attributes
    ----------
    config : Path
        The settings file.
    peer : str or None
        Examine this peer alone, and what it needs of us.
    timeout_s : float
        Longest wait for each step towards a peer.
    silent_days : float
        How long a source may be silent.
    model_command : callable or None
        From settings to the command line of a worker; None leaves the model out.
    model_timeout_s : float
        Longest wait for that worker.
    unit_folders : sequence of Path
        Where systemd looks for units.
    """

    config: Path
    peer: str | None = None
    timeout_s: float = 10.0
    silent_days: float = 7.0
    model_command: Callable[[Settings], Sequence[str]] | None = None
    model_timeout_s: float = 120.0
    unit_folders: Sequence[Path] = UNIT_FOLDERS


def examine(request: Request) -> list[Finding]:
    """Run every check; without a good settings file there is only one.

    Returns
    -------
    list of Finding
        Ordered by group; findings of one peer stand together.
    """
    try:
        settings = load_settings(request.config)
    except SettingsError as error:
        remedy = "correct this line; see: jmmda-node config check"
        return [failed("settings.file", str(fault), US, remedy) for fault in error.faults]
    count = f"{len(settings.peers)} peers, {len(settings.routes)} routes"
    found = [passed("settings.file", f"{request.config}: {count}")]
    chosen = [peer for peer in settings.peers if request.peer in (None, peer.name)]
    known = Records(())
    report: Mapping[str, Any] = {"running": False}
    folder = data_folder(settings)
    usable = accessible(settings.node.data_dir)
    if usable:
        known = records(settings)
    if usable or folder[0].mark is Mark.WARN:  # or not there yet
        about, report = processes(settings, request.config, ran_before=known.exists)
        folder += about
    if request.peer is None:
        found += [back.refused(settings, request.silent_days)] if usable else []
        found += [titles(settings), *folder, *known.findings, *certificates(settings)]
        found += _model(request, settings, report)
        found += machine(settings, request.unit_folders)
    found += _both_directions(chosen, request, settings, known, running=bool(report["running"]))
    order = list(GROUPS)
    return sorted(found, key=lambda finding: order.index(finding.group))


def _model(request: Request, settings: Settings, report: Mapping[str, Any]) -> list[Finding]:
    if request.model_command is None:
        return []
    running = settings_in_force(SpoolPaths(settings.node.data_dir)) if report["running"] else None
    same = running is not None and running.settings.model == settings.model
    worker = report.get("worker") if same else None
    return model(settings, request.model_command(settings), request.model_timeout_s, worker)


def _both_directions(
    chosen: Sequence[Peer], request: Request, settings: Settings, known: Records, *, running: bool
) -> list[Finding]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        called = list(pool.map(lambda peer: peers.call(peer, settings, request.timeout_s), chosen))
        addresses = list(pool.map(lambda peer: back.address(peer, settings), chosen))
    found = [finding for one in called for finding in one.findings]
    doors = dict.fromkeys(at for _, at in addresses if at is not None)
    if running:
        found += [back.door(settings, at, request.timeout_s) for at in doors]
    for peer, call, (reachable, at) in zip(chosen, called, addresses, strict=True):
        found.append(reachable)
        if peer.has_role(Role.SOURCE):
            silent = request.silent_days
            found.append(back.seen(peer, settings, known.last_seen, silent, at=at, offers=call.offers))
    return found
