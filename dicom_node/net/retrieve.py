"""The verbs move and get: have a peer send what it holds (C-MOVE and C-GET, Study Root; PS3.4 annex C.4.2 and C.4.3).

C-MOVE makes the peer call another application entity, which it must know by title and address, and store there. C-GET
brings the images over the very association that asked for them; the requestor then takes the role of a storage SCP,
which has to be negotiated for each SOP class (PS3.7 section D.3.3.4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.errors import Permanent, Transient
from dicom_node.net.contexts import CT_CLASSES, DECODABLE_SYNTAXES, STORAGE_CLASSES, accepted_syntaxes
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.requestor import associate, finish, no_answer, words
from dicom_node.net.retrieve_status import PENDING, RetrieveResult, counts_of

#: An association request has room for this many contexts (PS3.8 section 9.3.2.2).
_MOST_CONTEXTS: Final = 128
#: A peer that answers "pending" for so many times the longest wait, while nothing moves, is not going to end.
_STANDSTILL: Final = 10

#: What lies beside CT in the study of a head, most frequent first; the rest follows as far as there is room.
_BESIDE_CT: Final = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
    "1.2.840.10008.5.1.4.1.1.88.67",  # X-Ray Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.59",  # Key Object Selection
    "1.2.840.10008.5.1.4.1.1.11.1",  # Grayscale Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.11.2",  # Color Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
    "1.2.840.10008.5.1.4.1.1.66",  # Raw Data
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.12.1",  # X-Ray Angiographic
    "1.2.840.10008.5.1.4.1.1.128",  # Positron Emission Tomography
)

#: Gets a C-STORE request of the peer and returns the status to answer.
StoreHandler = Callable[[Any], int]
#: Told of every sign of progress.
OnProgress = Callable[[RetrieveResult], None]


class _RetrieveSession:
    """One association over which a peer is asked to send, request after request."""

    _verb: str
    _model: str

    def __init__(self, peer: RemoteEntity, calling_ae: str, timeout_s: float) -> None:
        self._peer = peer
        self._calling_ae = calling_ae
        self._timeout_s = timeout_s
        self._assoc: Association | None = None
        self._message_id = 0
        self._heard_at = 0.0

    def _associate(self) -> Association:
        raise NotImplementedError

    def _send(self, assoc: Association, identifier: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Open the association.

        Raises
        ------
        Transient
            ``peer_unreachable``, ``peer_rejected``, ``peer_busy``, ``peer_aborted``.
        Permanent
            ``peer_without_port``; ``retrieve_unknown`` when the peer does not know the verb.
        """
        assoc = self._associate()
        if not any(str(context.abstract_syntax) == self._model for context in assoc.accepted_contexts):
            finish(assoc)
            other = "--get" if self._verb == "C-MOVE" else "--move"
            reason = f"{words(self._peer)} accepts associations but no Study Root {self._verb}; try {other}"
            raise Permanent("retrieve_unknown", reason)
        self._assoc = assoc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the association; abort it when leaving by an exception."""
        if self._assoc is not None:
            finish(self._assoc, abort=kind is not None)

    def retrieve(self, level: str, keys: Mapping[str, str], on_progress: OnProgress | None = None) -> RetrieveResult:
        """Ask once and wait until the peer says that it has done.

        Parameters
        ----------
        level : str
            ``STUDY`` or ``SERIES``.
        keys : Mapping
            Keyword and UID of the level and of those above it.
        on_progress : callable, optional
            Told of every answer of the peer.

        Returns
        -------
        RetrieveResult
            Final status and counts; what they mean: `dicom_node.net.retrieve_status.trouble`.

        Raises
        ------
        Transient
            ``peer_silent``, ``peer_aborted``; ``retrieve_endless`` when the peer goes on answering and nothing moves.
        """
        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        assert self._assoc is not None
        self._message_id += 1
        self._heard_at = time.monotonic()
        try:
            return self._answers(self._send(self._assoc, identifier), on_progress)
        except RuntimeError as error:  # pynetdicom, when the association ended in between
            raise Transient("peer_aborted", f"{words(self._peer)} ended the association in the middle") from error
        finally:
            # The reactor stands still until the last answer was read, which after an exception is never.
            self._assoc._reactor_checkpoint.set()

    def _received(self) -> int:
        """How many images came over this association; 0 where they go elsewhere."""
        return 0

    def _answers(
        self, responses: Iterator[tuple[Dataset, Dataset | None]], on_progress: OnProgress | None
    ) -> RetrieveResult:
        moved_at = time.monotonic()
        moved: tuple[object, ...] = ()
        for status, _ in responses:
            now = time.monotonic()
            if "Status" not in status:
                raise no_answer(self._peer, now - self._heard_at, self._timeout_s)
            self._heard_at = now
            result = counts_of(status, self._received())
            if result.status not in PENDING:
                return result
            if on_progress is not None:
                on_progress(result)
            if result.progress != moved:
                moved, moved_at = result.progress, now
            elif now - moved_at > _STANDSTILL * self._timeout_s:
                raise Transient("retrieve_endless", f"{words(self._peer)} answers a {self._verb} without end")
        raise no_answer(self._peer, time.monotonic() - self._heard_at, self._timeout_s)


class MoveSession(_RetrieveSession):
    """An association over which a peer is told to send to an application entity that it knows (C-MOVE).

    Parameters
    ----------
    peer : RemoteEntity
        Whom to ask.
    calling_ae : str
        Our AE title.
    destination_ae : str
        Title of the entity that is to get the images; the peer must know its address.
    timeout_s : float
        Longest wait for the next answer.

    Examples
    --------
    >>> with MoveSession(peer, "JMMDA_NODE", "JMMDA_NODE") as session:  # doctest: +SKIP
    ...     result = session.retrieve("STUDY", {"StudyInstanceUID": uid})
    """

    _verb = "C-MOVE"
    _model = str(StudyRootQueryRetrieveInformationModelMove)

    def __init__(self, peer: RemoteEntity, calling_ae: str, destination_ae: str, *, timeout_s: float = 60.0) -> None:
        super().__init__(peer, calling_ae, timeout_s)
        self._destination_ae = destination_ae

    def _associate(self) -> Association:
        return associate(self._peer, self._calling_ae, [build_context(self._model)], self._timeout_s)

    def _send(self, assoc: Association, identifier: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        responses: Iterator[tuple[Dataset, Dataset | None]] = assoc.send_c_move(
            identifier, self._destination_ae, self._model, msg_id=self._message_id
        )
        return responses


class GetSession(_RetrieveSession):
    """An association over which a peer sends what it was asked for (C-GET).

    Parameters
    ----------
    peer : RemoteEntity
        Whom to ask.
    calling_ae : str
        Our AE title.
    store : callable
        Gets each C-STORE request as a pynetdicom event and returns the status; it may return success only when the
        image is safe.
    timeout_s : float
        Longest wait for the next image or answer.
    max_message_bytes : int
        Largest data set that is taken.
    """

    _verb = "C-GET"
    _model = str(StudyRootQueryRetrieveInformationModelGet)

    def __init__(
        self,
        peer: RemoteEntity,
        calling_ae: str,
        store: StoreHandler,
        *,
        timeout_s: float = 60.0,
        max_message_bytes: int = 1024**3,
    ) -> None:
        super().__init__(peer, calling_ae, timeout_s)
        self._store = store
        self._max_message_bytes = max_message_bytes
        self._stored = 0
        self._not_stored = 0

    @property
    def not_stored(self) -> int:
        """How many images we could not take."""
        return self._not_stored

    def _associate(self) -> Association:
        contexts = get_contexts()
        storage = list(dict.fromkeys(str(context.abstract_syntax) for context in contexts[1:]))
        assoc = associate(
            self._peer,
            self._calling_ae,
            contexts,
            self._timeout_s,
            roles=[build_role(sop_class, scp_role=True) for sop_class in storage],
            handlers=[(evt.EVT_C_STORE, self._on_store)],
            longest_answer_bytes=self._max_message_bytes,
        )
        accepted = [context for context in assoc.accepted_contexts if str(context.abstract_syntax) != self._model]
        if accepted and not any(context.as_scp for context in accepted):
            # The peer says nothing of roles, yet accepts storage beside C-GET: it can only mean to send.
            for context in accepted:
                context._as_scp = True
        return assoc

    def _send(self, assoc: Association, identifier: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        responses: Iterator[tuple[Dataset, Dataset | None]] = assoc.send_c_get(
            identifier, self._model, msg_id=self._message_id
        )
        return responses

    def _received(self) -> int:
        return self._stored

    def _on_store(self, event: Any) -> int:  # noqa: ANN401 - a pynetdicom event
        self._heard_at = time.monotonic()
        status = self._store(event)
        if status == 0:
            self._stored += 1
        else:
            self._not_stored += 1
        return status


def get_contexts() -> list[PresentationContext]:
    """Contexts of a C-GET request: the verb, CT in every encoding, other classes while there is room.

    An acceptor chooses one transfer syntax for each context. A peer that looks for the context that fits an image
    (Orthanc, dcm4che) needs one for each encoding; one that takes the first context of the class (DCMTK) needs that
    to leave the choice to itself. Hence both. Explicit VR comes first, because it keeps the VR of private elements.
    """
    syntaxes = list(dict.fromkeys((str(ExplicitVRLittleEndian), *DECODABLE_SYNTAXES)))
    contexts = [build_context(StudyRootQueryRetrieveInformationModelGet)]
    for sop_class in sorted(CT_CLASSES):
        contexts.append(build_context(sop_class, syntaxes))
        contexts += [build_context(sop_class, [syntax]) for syntax in syntaxes]
    others = dict.fromkeys((*_BESIDE_CT, *sorted(STORAGE_CLASSES - CT_CLASSES)))
    room = _MOST_CONTEXTS - len(contexts)
    return contexts + [build_context(sop_class, _explicit_first(sop_class)) for sop_class in list(others)[:room]]


def _explicit_first(sop_class: str) -> list[str]:
    return list(dict.fromkeys((str(ExplicitVRLittleEndian), *accepted_syntaxes(sop_class))))
