"""Reloads: new settings for every process of a running node, or for none of them.

The supervisor reads the file and judges it. Receivers get their new plan first; open associations go on. When all have
taken it, supervisor and service follow; when one cannot (a certificate that is unreadable, say), the others go back to
the old plan, and the service never hears of it. The outcome is in ``run/state.json`` either way, where `request_reload`
waits for it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import Refused, Transient
from dicom_node.ledger.spool import SpoolPaths, utc_now
from dicom_node.operate.children import Child
from dicom_node.operate.requests import ask
from dicom_node.operate.state import STATE_FILE
from dicom_node.settings import Settings, SettingsError, load_settings
from dicom_node.settings.changes import changes

#: A receiver answers a plan at once; one that does not within this time is stuck, and the reload is taken back.
ANSWER_LIMIT_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """How a reload ended.

    Attributes
    ----------
    at : str
        When, ISO 8601 with offset.
    taken : bool
        Whether every process works by the new settings; if not, none does.
    faults : tuple of str
        Why not.
    changed : tuple of str
        Keys that differ from the settings before.
    requests : tuple of str
        The requests of commands that it answers.
    """

    at: str
    taken: bool
    faults: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ReloadOutcome:
        """Read what `to_json` wrote."""
        lists = {name: tuple(map(str, record.get(name, ()))) for name in ("faults", "changed", "requests")}
        return cls(str(record["at"]), bool(record["taken"]), **lists)


class Reloads:
    """The supervisor's side: one reload at a time, from the file to the outcome.

    Parameters
    ----------
    file : Path
        The settings file.
    plan_of : callable
        From settings to the line that a receiver gets.
    """

    def __init__(self, file: Path, plan_of: Callable[[Settings], str]) -> None:
        self._file = file
        self._plan_of = plan_of
        self._requests: list[str] = []
        self._wanted = False
        self._fresh: Settings | None = None
        self._lines = ("", "")
        self._deadline = 0.0
        self._changed: tuple[str, ...] = ()
        self._answering: tuple[str, ...] = ()
        self._refusals: list[str] = []
        self._owed: Counter[str] = Counter()
        self._told: set[str] = set()

    @property
    def wanted(self) -> bool:
        """Whether a reload has to be begun."""
        return self._wanted and self._fresh is None

    def want(self, request: str | None = None) -> None:
        """Note that somebody wants a reload; several that wait are answered by one."""
        self._wanted = True
        if request is not None:
            self._requests.append(request)

    def begin(self, running: Settings, receivers: Sequence[Child]) -> ReloadOutcome | None:
        """Read and judge the file, and give the receivers their new plan.

        Returns
        -------
        ReloadOutcome or None
            The outcome when the file is not taken at all; None when the receivers have to answer first.
        """
        self._wanted, self._answering, self._requests = False, tuple(self._requests), []
        try:
            fresh = load_settings(self._file)
        except SettingsError as error:
            return self._outcome([str(fault) for fault in error.faults])
        found = changes(running, fresh)
        self._changed = tuple(change.key for change in found)
        fixed = [
            f"{self._file}: {change.key}: cannot change from {change.before!r} to {change.after!r} while the node runs:"
            " restart it, or undo this change"
            for change in found
            if change.needs_restart
        ]
        if fixed:
            return self._outcome(fixed)
        self._fresh, self._refusals = fresh, []
        self._lines = (self._plan_of(running), self._plan_of(fresh))
        self._deadline = time.monotonic() + ANSWER_LIMIT_S
        self._told.clear()
        for receiver in receivers:
            self._send(receiver, self._lines[1])
        return None

    def heard(self, name: str, event: Mapping[str, Any]) -> None:
        """Note what a receiver said."""
        if event.get("event") not in ("reloaded", "not_reloaded") or not self._owed[name]:
            return
        self._owed[name] -= 1
        # Only the answer to the last plan counts; an earlier one may come late.
        if event.get("event") == "not_reloaded" and not self._owed[name]:
            self._refusals.append(f"{name}: {event.get('reason')}")

    def ended(self, name: str) -> None:
        """Note that a receiver is gone: it owes nothing, and its successor starts with the plan then in force."""
        self._owed.pop(name, None)
        self._told.discard(name)

    def conclude(self, receivers: Sequence[Child]) -> tuple[ReloadOutcome, Settings | None] | None:
        """Return the outcome, and the new settings where they are taken, once every receiver has answered."""
        if self._fresh is None:
            return None
        silent = [receiver.name for receiver in receivers if self._owed[receiver.name]]
        if silent and time.monotonic() < self._deadline:
            return None
        fresh, self._fresh = self._fresh, None
        trouble = [*self._refusals, *(f"{name} did not answer within {ANSWER_LIMIT_S:.0f} s" for name in silent)]
        if not trouble:
            for receiver in receivers:
                if receiver.name not in self._told:  # started in between, with the old plan
                    self._send(receiver, self._lines[1])
            return self._outcome([]), fresh
        for receiver in receivers:
            self._send(receiver, self._lines[0])
        return self._outcome(trouble), None

    def _send(self, receiver: Child, line: str) -> None:
        if receiver.pid is not None:
            self._owed[receiver.name] += 1
            self._told.add(receiver.name)
            receiver.send(line)

    def _outcome(self, faults: Sequence[str]) -> ReloadOutcome:
        changed, self._changed = self._changed, ()
        return ReloadOutcome(utc_now(), not faults, tuple(faults), changed, self._answering)


def request_reload(paths: SpoolPaths, file: Path, *, timeout_s: float) -> ReloadOutcome:
    """Have the running node read its settings file again, and wait for the outcome.

    Parameters
    ----------
    paths : SpoolPaths
        Folders of the node.
    file : Path
        The file that is meant.
    timeout_s : float
        Longest wait.

    Raises
    ------
    Refused
        ``other_file`` when the running node reads another one.
    Transient
        ``no_answer``.
    """
    request = secrets.token_hex(8)
    started = time.monotonic()
    ask(paths, {"verb": "reload", "request": request, "file": str(file.absolute())}, timeout_s=timeout_s)
    while time.monotonic() - started < timeout_s:
        said = json.loads((paths.run / STATE_FILE).read_bytes()).get("reload") or {}
        if request in said.get("requests", ()):
            return ReloadOutcome.from_json(said)
        time.sleep(_LOOK_EVERY_S)
    raise Transient("no_answer", "the node did not say in time how the reload ended; see: jmmda-node status")


def check_same_file(wanted: str, ours: Path) -> None:
    """Refuse a reload that means another file than the one that the node reads.

    Raises
    ------
    Refused
        ``other_file``
    """
    if os.path.realpath(wanted) != os.path.realpath(ours):
        raise Refused("other_file", f"the running node reads {ours}, not {wanted}; it takes another one by a restart")
