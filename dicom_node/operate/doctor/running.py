"""Checks of the processes: does the node run, does it get on, by which settings, and is it what listens on the port."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dicom_node.ledger.spool import SpoolPaths
from dicom_node.operate.doctor.findings import US, Finding, failed, passed, warned
from dicom_node.operate.state import process_report, settings_in_force
from dicom_node.settings import Settings
from dicom_node.settings.changes import changes

#: The service writes its state every two seconds.
_SIGN_OF_LIFE_S: Final = 30.0
_PLAIN_TITLE: Final = re.compile(r"[A-Z0-9_.-]+")
_LISTEN: Final = "0A"  # include/net/tcp_states.h


def titles(settings: Settings) -> Finding:
    """Examine the AE titles, ours and those of the peers."""
    ours = settings.node.ae_title
    owners = [peer.name for peer in settings.peers if ours in peer.ae_titles]
    if owners:
        remedy = f"give the node a title of its own, or correct ae_titles of {owners[0]}"
        return warned("settings.titles", f"our title {ours!r} is also a title of peer {owners[0]!r}", US, remedy)
    every = [ours, *(title for peer in settings.peers for title in peer.ae_titles)]
    odd = [title for title in every if not _PLAIN_TITLE.fullmatch(title)]
    if odd:
        remedy = "make sure that both sides write them alike, or use capitals, digits and _ alone"
        seen = f"{', '.join(map(repr, odd))}: some systems turn small letters into capitals or cut at a space"
        return warned("settings.titles", seen, US, remedy)
    return passed("settings.titles", f"{ours} and {len(every) - 1} of peers")


def processes(settings: Settings, config: Path, *, ran_before: bool) -> tuple[list[Finding], Mapping[str, Any]]:
    """Examine the processes of the node.

    Parameters
    ----------
    settings : Settings
        Of the file.
    config : Path
        That file.
    ran_before : bool
        Whether a node ever ran on the data folder: one that stands still then is a failure, not a beginning.

    Returns
    -------
    list of Finding, Mapping
        The findings, and what the service last said of itself.
    """
    paths = SpoolPaths(settings.node.data_dir)
    report = process_report(paths)
    if not report["running"]:
        remedy = "start it: systemctl start jmmda-node, or: jmmda-node serve; its log says why it ended"
        state = failed if ran_before else warned
        stopped = state("node.running", f"nothing runs on {paths.data_dir}", US, remedy)
        return [stopped, _port(settings, None)], report
    found = [_in_force(settings, config, paths, report), passed("node.running", f"service process {report.get('pid')}")]
    return [*found, _progress(report), _port(settings, report.get("pid"))], report


def _in_force(settings: Settings, config: Path, paths: SpoolPaths, report: Mapping[str, Any]) -> Finding:
    running = settings_in_force(paths)
    if running is None:
        remedy = "restart the node, so that it is of the same version as this command"
        return warned("settings.in_force", "the running node does not say by which settings it works", US, remedy)
    found = changes(running.settings, settings)
    if not found:
        said = report.get("reload") or {}
        if said and not said["taken"]:
            seen = f"the last reload was not taken: {'; '.join(said['faults'])}"
            return warned("settings.in_force", seen, US, "the file is good now: jmmda-node config reload")
        return passed("settings.in_force", f"in force since {running.at}")
    fixed = [change.key for change in found if change.needs_restart]
    keys = ", ".join(change.key for change in found)
    remedy = f"restart the node ({', '.join(fixed)})" if fixed else f"take it: jmmda-node config reload {config}"
    return warned("settings.in_force", f"the running node has other values than the file: {keys}", US, remedy)


def _progress(report: Mapping[str, Any]) -> Finding:
    slow = [name for name, loop in (report.get("loops") or {}).items() if not loop.get("well")]
    age_s = _age_s(str(report.get("at", "")))
    remedy = "see its log; restart it if it goes on"
    if age_s is None or age_s > _SIGN_OF_LIFE_S:
        since = report.get("at", "its start")
        return failed("node.progress", f"the service has given no sign of life since {since}", US, remedy)
    if slow or not report.get("well"):
        return failed("node.progress", f"no progress in: {', '.join(slow) or 'some loop'}", US, remedy)
    return passed("node.progress", f"a sign of life {age_s:.0f} s ago, every loop within its limit")


def _age_s(moment: str) -> float | None:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except ValueError:
        return None


def _port(settings: Settings, service: int | None) -> Finding:
    port = settings.node.port
    inodes = set(_listening(port))
    owners = Counter(pid for pid, inode in _open_sockets() if inode in inodes) if inodes else Counter[int]()
    family = _parent(service) if service is not None else None
    others = sorted(pid for pid in owners if family is None or _parent(pid) != family)
    if service is None and inodes:
        who = f"process {others[0]} ({_name(others[0])})" if others else "a process of another user"
        remedy = "stop it, or choose another port in [node]"
        return failed("node.port", f"{who} listens on port {port}, although the node does not run", US, remedy)
    if service is None:
        return passed("node.port", f"{port} is free")
    if not inodes:
        remedy = "see its log; restart it where the port was changed in the file"
        return failed("node.port", f"the node runs, but nobody listens on port {port}", US, remedy)
    if others and len(others) == len(owners):
        seen = f"process {others[0]} ({_name(others[0])}), which is not the node, listens on port {port}"
        return failed("node.port", seen, US, "stop it, or choose another port in [node]; then restart the node")
    return passed("node.port", f"{'the node' if owners else 'a process of another user'} listens on {port}")


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a TCP port (proc_net_tcp of the kernel's documentation)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]


def _open_sockets() -> Iterator[tuple[int, str]]:
    """Process and inode of every socket that this user may see."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith("socket:["):
                        yield int(process.name), target[8:-1]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def _name(pid: int) -> str:
    try:
        return json.dumps(Path(f"/proc/{pid}/comm").read_text().strip())
    except OSError:
        return "ended"
