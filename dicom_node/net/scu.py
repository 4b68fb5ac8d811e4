"""The verbs we call on peers: echo and store (find: `dicom_node.net.find`)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pydicom
from pydicom import uid
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.part10 import FileHead, read_head
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.requestor import associate, finish, no_answer, words
from dicom_node.net.status import StoreCategory, categorise, meaning

#: An association request has room for this many contexts (their IDs are the odd numbers up to 255, PS3.8 9.3.2.2).
_MOST_CONTEXTS: Final = 128

#: Encodings that differ in notation only, so that a file in one can be sent in another. Big endian is left out, because
#: its pixels would have to be swapped.
_CONVERTIBLE: Final = frozenset(
    {str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian), str(uid.DeflatedExplicitVRLittleEndian)}
)


@dataclass(frozen=True, slots=True)
class EchoResult:
    """A C-ECHO that was answered with success.

    Attributes
    ----------
    associate_s, round_trip_s : float
        Time to open the association and for the echo itself.
    implementation : str
        Implementation version name of the peer, as it gave it.
    """

    associate_s: float
    round_trip_s: float
    implementation: str


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of one instance.

    Attributes
    ----------
    sop_instance_uid : str
        Which instance.
    status : int or None
        Status of the C-STORE response; None when there was none.
    category : StoreCategory
        What to do next.
    comment : str
        The status in words, or why there was none.
    """

    sop_instance_uid: str
    status: int | None
    category: StoreCategory
    comment: str


@dataclass(frozen=True, slots=True)
class EncodedInstance:
    """A DICOM file as bytes, and what its head says."""

    data: bytes
    head: FileHead

    @classmethod
    def read(cls, path: Path) -> EncodedInstance:
        """Read a file.

        Raises
        ------
        OSError
            When it cannot be read.
        Permanent
            ``file_head`` when it is no DICOM file.
        """
        data = path.read_bytes()
        return cls(data, read_head(data))

    @property
    def need(self) -> tuple[str, str]:
        """SOP class UID and transfer syntax UID, which an association must offer to carry it."""
        return self.head.sop_class_uid, self.head.transfer_syntax_uid


def echo(peer: RemoteEntity, calling_ae: str, *, timeout_s: float = 30.0) -> EchoResult:
    """Verify the connection to a peer by C-ECHO (PS3.4 annex A).

    Parameters
    ----------
    peer : RemoteEntity
        Whom to call.
    calling_ae : str
        Our AE title.
    timeout_s : float
        Longest wait for each step.

    Returns
    -------
    EchoResult

    Raises
    ------
    Transient
        ``peer_unreachable``, ``peer_rejected``, ``peer_busy``, ``peer_aborted``, ``peer_silent``.
    Permanent
        ``peer_without_port``, ``echo_refused`` when the peer knows no Verification or answers with a failure.
    """
    started = time.monotonic()
    assoc = associate(peer, calling_ae, [build_context(Verification)], timeout_s)
    try:
        if not assoc.accepted_contexts:
            raise Permanent("echo_refused", f"{words(peer)} accepts associations but no Verification context")
        opened = time.monotonic()
        status = assoc.send_c_echo()
        answered = time.monotonic()
    except RuntimeError as error:  # pynetdicom, when the association ended in between
        raise Transient("peer_aborted", f"{words(peer)} ended the association before the echo") from error
    finally:
        finish(assoc)
    if "Status" not in status:
        raise no_answer(peer, answered - opened, timeout_s)
    if status.Status != 0:
        raise Permanent("echo_refused", f"{words(peer)} answered the echo with status 0x{status.Status:04X}")
    return EchoResult(opened - started, answered - opened, str(assoc.acceptor.implementation_version_name or ""))


class StoreSession:
    """One association over which instances are stored, one after the other, bytes as they are in the file.

    Parameters
    ----------
    peer : RemoteEntity
        Whom to send to.
    calling_ae : str
        Our AE title.
    needs : iterable of (SOP class UID, transfer syntax UID)
        What is going to be sent; nothing else is proposed. See `EncodedInstance.need`.
    timeout_s : float
        Longest wait for each step.

    Examples
    --------
    >>> with StoreSession(peer, "JMMDA_NODE", {instance.need}) as session:  # doctest: +SKIP
    ...     result = session.send_encoded(instance)
    """

    def __init__(
        self, peer: RemoteEntity, calling_ae: str, needs: Iterable[tuple[str, str]], *, timeout_s: float = 30.0
    ) -> None:
        self._peer = peer
        self._calling_ae = calling_ae
        self._proposed = contexts_for(needs)
        self._timeout_s = timeout_s
        self._message_id = 0
        self._assoc: Association | None = None
        self._accepted: dict[tuple[str, str], int] = {}
        self._lost: NodeError | None = None

    def open(self) -> None:
        """Open the association; ``with`` does so too.

        Raises
        ------
        Transient
            ``peer_unreachable``, ``peer_rejected``, ``peer_busy``, ``peer_aborted``.
        Permanent
            ``peer_without_port``.
        """
        self._assoc = associate(self._peer, self._calling_ae, self._proposed, self._timeout_s)
        self._accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0])): context.context_id
            for context in self._assoc.accepted_contexts
        }

    def __enter__(self) -> Self:
        if self._assoc is None:
            self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the association; abort it when leaving by an exception."""
        if self._assoc is not None:
            finish(self._assoc, abort=kind is not None)

    @property
    def lost(self) -> NodeError | None:
        """Why the association can carry nothing more; None while it is well."""
        return self._lost

    def send(self, path: Path) -> StoreResult:
        """Read a file and send it; see `send_encoded` and `EncodedInstance.read`."""
        return self.send_encoded(EncodedInstance.read(path))

    def send_encoded(self, instance: EncodedInstance) -> StoreResult:
        """Send one instance and wait for its status; a failure is a result, not an exception.

        Parameters
        ----------
        instance : EncodedInstance
            What to send. It is re-encoded only when the peer accepts its SOP class in another uncompressed little
            endian transfer syntax alone.

        Returns
        -------
        StoreResult
            ``TRANSIENT`` without a status when the association is lost (`lost` then says why), ``PERMANENT`` without
            one when the peer accepted no context for the instance.
        """
        sop_instance_uid = instance.head.sop_instance_uid
        if self._lost is not None:
            return StoreResult(sop_instance_uid, None, StoreCategory.TRANSIENT, self._lost.reason)
        context_id = self._accepted.get(instance.need)
        if context_id is None:
            instance, context_id = self._converted(instance)
        if context_id is None:
            sop_class, syntax = (uid.UID(part).name for part in instance.need)
            comment = f"the peer accepts no presentation context for {sop_class} in {syntax}"
            return StoreResult(sop_instance_uid, None, StoreCategory.PERMANENT, comment)
        started = time.monotonic()
        status = self._exchange(instance, context_id)
        if status is None:
            self._lost = no_answer(self._peer, time.monotonic() - started, self._timeout_s)
            return StoreResult(sop_instance_uid, None, StoreCategory.TRANSIENT, self._lost.reason)
        return StoreResult(sop_instance_uid, status, categorise(status), meaning(status))

    def _converted(self, instance: EncodedInstance) -> tuple[EncodedInstance, int | None]:
        sop_class, syntax = instance.need
        if syntax in _CONVERTIBLE:
            for other in sorted(_CONVERTIBLE):
                if (sop_class, other) in self._accepted:
                    return _encode_as(instance, other), self._accepted[sop_class, other]
        return instance, None

    def _exchange(self, instance: EncodedInstance, context_id: int) -> int | None:
        """Send a C-STORE request and return the status of its response, None when there is none.

        pynetdicom's ``send_c_store`` encodes the data set anew. What was checked has to be what leaves, so the request
        is put together here from the bytes of the file, and the association's reactor is held still in the same way.
        """
        assoc = self._assoc
        if assoc is None or not assoc.is_established:
            return None
        self._message_id = self._message_id % 65_535 + 1
        request = C_STORE()
        request.MessageID = self._message_id
        request.AffectedSOPClassUID = instance.head.sop_class_uid
        request.AffectedSOPInstanceUID = instance.head.sop_instance_uid
        request.Priority = 0
        request.DataSet = BytesIO(memoryview(instance.data)[instance.head.data_set_offset :])
        assoc._reactor_checkpoint.clear()
        while not assoc._is_paused:
            time.sleep(0.0001)
        try:
            assoc.dimse.send_msg(request, context_id)
            _, response = assoc.dimse.get_msg(block=True)
        finally:
            assoc._reactor_checkpoint.set()
        if not isinstance(response, C_STORE) or response.Status is None:
            assoc.abort()
            return None
        return int(response.Status)


def contexts_for(needs: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Propose one context for each pair, and the other simple encodings, in case the peer takes only those.

    Parameters
    ----------
    needs : iterable of (SOP class UID, transfer syntax UID)
        See `EncodedInstance.need`.
    """
    pairs = dict.fromkeys(sorted(needs))
    for sop_class, syntax in tuple(pairs):
        if syntax in _CONVERTIBLE:
            pairs[sop_class, str(uid.ExplicitVRLittleEndian)] = None
            pairs[sop_class, str(uid.ImplicitVRLittleEndian)] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs][:_MOST_CONTEXTS]


def _encode_as(instance: EncodedInstance, transfer_syntax_uid: str) -> EncodedInstance:
    """Write a data set in another simple encoding."""
    dataset = pydicom.dcmread(BytesIO(instance.data))
    syntax = uid.UID(transfer_syntax_uid)
    dataset.file_meta.TransferSyntaxUID = syntax
    target = BytesIO()
    pydicom.dcmwrite(
        target,
        dataset,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=True,
        enforce_file_format=True,
    )
    data = target.getvalue()
    return EncodedInstance(data, read_head(data))
