"""Carry out a pull: study after study by C-MOVE to the running node, or by C-GET into its spool.

C-GET stores by the code of the receiver (`dicom_node.receive.storing`) into an association folder of its own, with the
same journal and lock: an image is answered with success when it is durable, the service takes it in like any other, and
a command that is killed leaves what a killed receiver leaves. Handing the images to the receiver over loopback would
store each of them twice as slowly, need the node to run, and need a place in its own allow-list.
"""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dicom_node.commands.pull_plan import StudyPlan
from dicom_node.errors import NodeError, Permanent, Refused, Transient
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.net.find import FindSession
from dicom_node.net.retrieve import GetSession, MoveSession, OnProgress
from dicom_node.net.retrieve_status import RetrieveResult, trouble
from dicom_node.receive.planning import receiver_plan
from dicom_node.receive.storing import Reception
from dicom_node.settings import Peer, Role, Settings

#: After these the next study would fail in the same way.
HOPELESS: Final = frozenset(
    {
        "disk_full",
        "find_refused",
        "move_destination_unknown",
        "peer_rejected",
        "peer_unreachable",
        "peer_without_port",
        "retrieve_not_allowed",
        "retrieve_unknown",
    }
)

_CONNECT_S: Final = 3.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound


class Verb(StrEnum):
    """How images are retrieved."""

    MOVE = "C-MOVE"
    GET = "C-GET"


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """What became of one study.

    Attributes
    ----------
    plan : StudyPlan
        What was asked for.
    result : RetrieveResult
        Counts over all requests.
    trouble : NodeError or None
        Why not everything came.
    """

    plan: StudyPlan
    result: RetrieveResult
    trouble: NodeError | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            **plan_to_json(self.plan),
            "outcome": "failed" if self.trouble else "pulled",
            "arrived": self.result.arrived,
            "failed": self.result.failed,
            "warnings": self.result.warnings,
            "code": self.trouble.code if self.trouble else None,
            "reason": self.trouble.reason if self.trouble else None,
        }


def plan_to_json(plan: StudyPlan) -> dict[str, Any]:
    """Describe a plan as JSON types."""
    return {
        "study_instance_uid": plan.study_instance_uid,
        "series": dict(plan.series),
        "level": "STUDY" if plan.whole else "SERIES",
        "expected": plan.expected,
    }


class Puller:
    """Asks one peer for studies and has them sent.

    Parameters
    ----------
    settings : Settings
        Of the node.
    peer : Peer
        Whom to ask; `ensure_may_pull` judges it.
    verb : Verb
        How to retrieve.
    timeout_s : float
        Longest wait for each answer.
    """

    def __init__(self, settings: Settings, peer: Peer, verb: Verb, timeout_s: float) -> None:
        self._settings = settings
        self._peer = peer
        self._verb = verb
        self._timeout_s = timeout_s
        self._our_ae = settings.node.ae_title

    def ask(self, level: str, keys: Any) -> list[Any]:  # noqa: ANN401 - as `pull_plan.Ask`
        """Ask the peer once by C-FIND."""
        with FindSession(self._peer, self._our_ae, timeout_s=self._timeout_s) as session:
            return session.find(level, keys)

    def pull(self, plan: StudyPlan, on_progress: OnProgress | None = None) -> StudyOutcome:
        """Have a study sent; failures of the peer are in the outcome."""
        total: RetrieveResult | None = None
        try:
            with self._session() as session:
                for level, keys in _requests(plan):
                    result = session.retrieve(level, keys, on_progress)
                    total = result if total is None else total.plus(result)
                    found = trouble(self._peer, self._verb.value, self._our_ae, result)
                    if found is not None and found.code in HOPELESS:
                        break
                error = trouble(self._peer, self._verb.value, self._our_ae, total) if total is not None else None
                error = self._refused_here(session) or error
        except NodeError as failure:
            error = failure
        total = total or RetrieveResult(0)
        return StudyOutcome(plan, total, error or self._missing(plan, total))

    @contextmanager
    def _session(self) -> Iterator[MoveSession | GetSession]:
        if self._verb is Verb.MOVE:
            with MoveSession(self._peer, self._our_ae, self._our_ae, timeout_s=self._timeout_s) as move:
                yield move
            return
        with reception(self._settings, self._peer) as received:
            plan = receiver_plan(self._settings)
            get = GetSession(
                self._peer,
                self._our_ae,
                received.handle_store,
                timeout_s=self._timeout_s,
                max_message_bytes=plan.max_message_bytes,
            )
            with get:
                yield get

    def _refused_here(self, session: MoveSession | GetSession) -> NodeError | None:
        if isinstance(session, MoveSession) or not session.not_stored:
            return None
        disk = os.statvfs(self._settings.node.data_dir)
        if disk.f_bavail * disk.f_frsize < self._settings.intake.min_free_mib * 1024**2:
            return Transient("disk_full", "free space on data_dir is below min_free_mib: make room, then go on")
        return Transient("not_stored", f"{session.not_stored} images came but could not be stored here; see above")

    def _missing(self, plan: StudyPlan, total: RetrieveResult) -> NodeError | None:
        """Success without any image, where the peer had named some, is no success."""
        if total.arrived or not plan.expected or (self._verb is Verb.MOVE and total.completed is None):
            return None
        reason = f"peer {self._peer.name!r} says success, but of {plan.expected} images it sent none"
        return Transient("retrieve_incomplete", reason)


def _requests(plan: StudyPlan) -> Iterator[tuple[str, dict[str, str]]]:
    if plan.whole:
        yield "STUDY", {"StudyInstanceUID": plan.study_instance_uid}
        return
    for uid in plan.series:
        yield "SERIES", {"StudyInstanceUID": plan.study_instance_uid, "SeriesInstanceUID": uid}


@contextmanager
def reception(settings: Settings, peer: Peer) -> Iterator[Reception]:
    """Open the spool as the receiver does, for images that come because we asked a peer for them.

    They count as sent by the first AE title of the peer, so that routes and questions back lead where they would lead
    if it had sent them by itself.
    """
    plan = receiver_plan(settings)
    spool = SpoolPaths(settings.node.data_dir)
    spool.make()
    received = Reception(
        spool,
        lambda: plan,
        calling_ae=peer.called_ae_title,
        called_ae=settings.node.ae_title,
        host=peer.host,
        port=peer.port or 0,
    )
    outcome = "aborted"
    try:
        yield received
        outcome = "closed"
    finally:
        received.end(outcome)


class Pace:
    """Keeps the starts of studies apart.

    Parameters
    ----------
    per_minute : float or None
        Most studies to begin in a minute; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        self._next_at = 0.0

    def wait(self) -> None:
        """Wait until the next study may begin."""
        delay_s = self._next_at - time.monotonic()
        if delay_s > 0:
            time.sleep(delay_s)
        self._next_at = time.monotonic() + self._gap_s


def ensure_may_pull(settings: Settings, peer: Peer, verb: Verb) -> None:
    """Check beforehand what would otherwise fail image by image.

    Raises
    ------
    Refused
        ``peer_roles``, ``no_destination``, ``wrong_user``.
    Permanent
        ``node_not_listening``: C-MOVE sends to the running node.
    """
    missing = [role.value for role in (Role.QUERY, Role.SOURCE) if not peer.has_role(role)]
    if missing:
        reason = (
            f"peer {peer.name!r} has no role {' and no role '.join(missing)}: it is asked what it holds (query), and "
            "what it sends has to be accepted and needs a route for its results (source)"
        )
        raise Refused("peer_roles", reason)
    if not settings.destinations_for(peer.called_ae_title):
        reason = f"no route leads from {peer.called_ae_title!r} to a destination: results would go nowhere"
        raise Refused("no_destination", reason)
    if verb is Verb.GET:
        _ensure_owner(settings.node.data_dir)
    else:
        _ensure_listening(settings)


def _ensure_owner(data_dir: Path) -> None:
    """Files of another user could not be read by the service."""
    try:
        owner = data_dir.stat().st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        reason = f"{data_dir} belongs to user {name}, who has to own what is stored there: run this as {name} (sudo -u)"
        raise Refused("wrong_user", reason)


def _ensure_listening(settings: Settings) -> None:
    host = _ANY_ADDRESS.get(settings.node.host, settings.node.host)
    try:
        socket.create_connection((host, settings.node.port), timeout=_CONNECT_S).close()
    except OSError as error:
        reason = (
            f"this node does not listen on {host}:{settings.node.port}, and C-MOVE sends there: start it "
            "(jmmda-node serve), or use --get"
        )
        raise Permanent("node_not_listening", reason) from error
