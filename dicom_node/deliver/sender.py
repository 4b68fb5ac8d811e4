"""Send a set of instances to one peer over one association, or over one connection of its DICOMweb service.

The caller keeps the record: it passes only what the peer has not acknowledged yet, and is told of every instance as
soon as its status is known, so that a crash in the middle costs at most the instance under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

from dicom_node.errors import NodeError
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.scu import EncodedInstance, StoreResult, StoreSession
from dicom_node.net.status import StoreCategory

#: Gets the bytes of a whole file and raises `Permanent` when they may not leave.
Check: TypeAlias = Callable[[bytes], None]


class StoringSession(Protocol):
    """What carries instances to a peer: `StoreSession` by C-STORE, `StowSession` by STOW-RS."""

    def open(self) -> None:
        """Begin; raises `NodeError`."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def lost(self) -> NodeError | None:
        """Why nothing more can be sent."""

    def send_encoded(self, instance: EncodedInstance) -> StoreResult:
        """Send one instance."""


@dataclass(frozen=True, slots=True)
class InstanceOutcome:
    """One instance and what the peer said to it."""

    path: Path
    result: StoreResult


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one try of sending achieved.

    Attributes
    ----------
    outcomes : tuple of InstanceOutcome
        In the order of sending.
    unsent : tuple of Path
        Not tried, because the association did not come about or was lost.
    error : NodeError or None
        Why the association did not come about or was lost.
    """

    outcomes: tuple[InstanceOutcome, ...]
    unsent: tuple[Path, ...]
    error: NodeError | None

    @property
    def stored(self) -> tuple[Path, ...]:
        """What the peer has now."""
        return tuple(outcome.path for outcome in self.outcomes if outcome.result.category.is_stored)

    @property
    def to_retry(self) -> tuple[Path, ...]:
        """What to send again: passing failures, and what was not tried."""
        return (*self._of(StoreCategory.TRANSIENT), *self.unsent)

    @property
    def failed(self) -> tuple[Path, ...]:
        """What the peer will not take, however often it is sent."""
        return self._of(StoreCategory.PERMANENT)

    @property
    def complete(self) -> bool:
        """Whether the peer has everything."""
        return len(self.stored) == len(self.outcomes) and not self.unsent

    def _of(self, category: StoreCategory) -> tuple[Path, ...]:
        return tuple(outcome.path for outcome in self.outcomes if outcome.result.category is category)


def send_instances(
    peer: RemoteEntity,
    calling_ae: str,
    paths: Sequence[Path],
    *,
    check: Check | None = None,
    on_result: Callable[[Path, StoreResult], None] | None = None,
    timeout_s: float = 30.0,
) -> DeliveryReport:
    """Send files to a peer by C-STORE, or by STOW-RS where it has a DICOMweb service.

    Parameters
    ----------
    peer : RemoteEntity
        Whom to send to.
    calling_ae : str
        Our AE title.
    paths : sequence of Path
        DICOM files, in the order of sending.
    check : callable, optional
        Judges the encoded bytes. It sees every file before the association is opened, so that a series with one bad
        object leaves nothing at the peer, and again the very bytes that are about to leave.
    on_result : callable, optional
        Called with each path and its result as soon as it is known, before the next instance is sent.
    timeout_s : float
        Longest wait for the peer at each step.

    Returns
    -------
    DeliveryReport
        Failures of the peer and of the network are in the report, never exceptions.

    Raises
    ------
    Permanent
        What `check` raises (``label_missing``), or ``file_head`` when a file is no DICOM file.
    OSError
        When a file cannot be read.
    """
    needs = set()
    for path in paths:
        needs.add(_checked(path, check).need)
    outcomes: list[InstanceOutcome] = []
    error: NodeError | None = None
    if paths:
        error = _send_over(_session(peer, calling_ae, needs, timeout_s), paths, check, on_result, outcomes)
    return DeliveryReport(tuple(outcomes), tuple(paths[len(outcomes) :]), error)


def _session(peer: RemoteEntity, calling_ae: str, needs: set[tuple[str, str]], timeout_s: float) -> StoringSession:
    if peer.web is None:
        return StoreSession(peer, calling_ae, needs, timeout_s=timeout_s)
    from dicom_node.net.stow import StowSession  # who speaks DIMSE alone does not load an HTTP library

    return StowSession(peer.name, peer.web, timeout_s=timeout_s)


def _send_over(
    session: StoringSession,
    paths: Sequence[Path],
    check: Check | None,
    on_result: Callable[[Path, StoreResult], None] | None,
    outcomes: list[InstanceOutcome],
) -> NodeError | None:
    """Fill `outcomes` until everything is sent or the association is lost; return why it was lost."""
    try:
        session.open()
    except NodeError as error:
        return error
    with session:
        for path in paths:
            result = session.send_encoded(_checked(path, check))
            outcomes.append(InstanceOutcome(path, result))
            if on_result is not None:
                on_result(path, result)
            if session.lost is not None:
                return session.lost
    return None


def _checked(path: Path, check: Check | None) -> EncodedInstance:
    instance = EncodedInstance.read(path)
    if check is not None:
        check(instance.data)
    return instance
