"""What the answers to C-MOVE and C-GET mean, and who has to change what (PS3.4 tables C.4-2 and C.4-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.requestor import words

#: Sub-operations go on.
PENDING: Final = frozenset({0xFF00})

_SUCCESS: Final = 0x0000
_SOME_FAILED: Final = 0xB000
_CANCELLED: Final = 0xFE00
_UNKNOWN_DESTINATION: Final = 0xA801
_RESOURCES: Final = frozenset({0xA700, 0xA701, 0xA702})
_WRONG_IDENTIFIER: Final = 0xA900
_NOT_KNOWN: Final = frozenset({0x0122, 0x0211})
_NOT_ALLOWED: Final = 0x0124
#: No request brings more images; a larger count is nonsense.
_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RetrieveResult:
    """One answer to a C-MOVE or C-GET.

    Attributes
    ----------
    status : int
        Of the answer.
    remaining, completed, failed, warnings : int or None
        Sub-operations as the peer counts them; None where it does not say, or says nonsense.
    received : int
        Images that came over our own association and were stored (C-GET).
    """

    status: int
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warnings: int | None = None
    received: int = 0

    @property
    def progress(self) -> tuple[object, ...]:
        """Changes whenever something moved."""
        return self.remaining, self.completed, self.failed, self.warnings, self.received

    @property
    def arrived(self) -> int:
        """Images that arrived, by our own count where we have one."""
        return self.received or (self.completed or 0) + (self.warnings or 0)

    def plus(self, other: RetrieveResult) -> RetrieveResult:
        """Return the sums over two requests, with the worse status."""
        return RetrieveResult(
            self.status or other.status,
            None,
            _sum(self.completed, other.completed),
            _sum(self.failed, other.failed),
            _sum(self.warnings, other.warnings),
            max(self.received, other.received),
        )


def counts_of(status: Dataset, received: int) -> RetrieveResult:
    """Read an answer; the peer may have put anything into it."""
    return RetrieveResult(
        int(status.Status),
        _count(status, "NumberOfRemainingSuboperations"),
        _count(status, "NumberOfCompletedSuboperations"),
        _count(status, "NumberOfFailedSuboperations"),
        _count(status, "NumberOfWarningSuboperations"),
        received,
    )


def trouble(peer: RemoteEntity, verb: str, our_ae: str, result: RetrieveResult) -> NodeError | None:
    """Return what kept a request from being fulfilled, or None.

    Parameters
    ----------
    peer : RemoteEntity
        Who answered.
    verb : str
        ``C-MOVE`` or ``C-GET``.
    our_ae : str
        Title that the images were to be sent to.
    result : RetrieveResult
        The last answer.

    Returns
    -------
    NodeError or None
        ``move_destination_unknown``, ``retrieve_unknown``, ``retrieve_not_allowed``, ``retrieve_refused`` (Permanent);
        ``retrieve_resources``, ``retrieve_incomplete``, ``retrieve_cancelled``, ``retrieve_failed`` (Transient).
    """
    status, who = result.status, words(peer)
    figures = {"status": f"0x{status:04X}", "arrived": result.arrived, "failed": result.failed}
    if status in (_SUCCESS, _SOME_FAILED):
        return _incomplete(who, verb, our_ae, result, figures)
    if status == _UNKNOWN_DESTINATION:
        reason = (
            f"{who} does not know our AE title {our_ae!r} as a move destination; ask the PACS administrator to add it "
            "with the address and port of this node, or use --get"
        )
        return Permanent("move_destination_unknown", reason, figures)
    if status in _NOT_KNOWN:
        return Permanent("retrieve_unknown", f"{who} does not support {verb} (status 0x{status:04X})", figures)
    if status == _NOT_ALLOWED:
        reason = f"{who} does not allow {verb} to us; ask the PACS administrator for the right to retrieve"
        return Permanent("retrieve_not_allowed", reason, figures)
    if status == _WRONG_IDENTIFIER:
        return Permanent("retrieve_refused", f"{who} does not accept the identifier of a {verb} (0xA900)", figures)
    if status == _CANCELLED:
        return Transient("retrieve_cancelled", f"{who} says that the {verb} was cancelled", figures)
    if status in _RESOURCES:
        return Transient(
            "retrieve_resources", f"{who} is out of resources for a {verb}{_who_else(verb, our_ae)}", figures
        )
    reason = f"{who} answered a {verb} with status 0x{status:04X}{_who_else(verb, our_ae)}"
    return Transient("retrieve_failed", reason, figures)


def _incomplete(
    who: str, verb: str, our_ae: str, result: RetrieveResult, figures: dict[str, object]
) -> NodeError | None:
    failed = result.failed or 0
    if not failed and result.status == _SUCCESS:
        return None
    if not failed and result.warnings:
        return None
    number = str(failed) if failed else "some"
    reason = f"{who} could not send {number} of {failed + result.arrived} images{_who_else(verb, our_ae)}"
    return Transient("retrieve_incomplete", reason, figures)


def _who_else(verb: str, our_ae: str) -> str:
    """Name the usual causes, where the status names none."""
    if verb == "C-MOVE":
        return (
            f"; usual causes: it has a wrong address or port for {our_ae!r}, or does not know that title (some answer "
            "so), or this node refused the images (its log says why)"
        )
    return "; usual causes: it holds them in an encoding or a class that was not negotiated, or we could not store them"


def _count(status: Dataset, keyword: str) -> int | None:
    value = getattr(status, keyword, None)
    return value if isinstance(value, int) and 0 <= value <= _MOST else None


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
