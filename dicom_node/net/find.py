"""The verb find: ask a peer what it holds (C-FIND, Study Root; PS3.4 annex C).

Only unique keys and counts are asked for, no attribute of the patient. Patient Root is not used: its queries need the
patient's ID.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.errors import Permanent, Transient
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.requestor import associate, finish, no_answer, words

#: Statuses of PS3.4 table C.4-1: another answer follows.
_PENDING: Final = frozenset({0xFF00, 0xFF01})
#: A whole query may take so many times the longest wait for one answer.
_WHOLE_QUERY: Final = 6


class FindSession:
    """One association over which a peer is asked, as often as need be.

    Parameters
    ----------
    peer : RemoteEntity
        Whom to ask.
    calling_ae : str
        Our AE title.
    timeout_s : float
        Longest wait for each step.

    Examples
    --------
    >>> with FindSession(peer, "JMMDA_NODE") as session:  # doctest: +SKIP
    ...     answers = session.find("SERIES", {"StudyInstanceUID": uid, "SeriesInstanceUID": ""})
    """

    def __init__(self, peer: RemoteEntity, calling_ae: str, *, timeout_s: float = 30.0) -> None:
        self._peer = peer
        self._calling_ae = calling_ae
        self._timeout_s = timeout_s
        self._assoc: Association | None = None
        self._message_id = 0

    def __enter__(self) -> Self:
        """Open the association.

        Raises
        ------
        Transient
            ``peer_unreachable``, ``peer_rejected``, ``peer_busy``, ``peer_aborted``.
        Permanent
            ``peer_without_port``; ``find_refused`` when the peer knows no Study Root query.
        """
        contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
        assoc = associate(self._peer, self._calling_ae, contexts, self._timeout_s)
        if not assoc.accepted_contexts:
            finish(assoc)
            raise Permanent("find_refused", f"{words(self._peer)} accepts associations but no Study Root C-FIND")
        self._assoc = assoc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the association; abort it when leaving by an exception."""
        if self._assoc is not None:
            finish(self._assoc, abort=kind is not None)

    def find(self, level: str, keys: Mapping[str, str], *, most: int = 10_000) -> list[Dataset]:
        """Ask once and return every match.

        Parameters
        ----------
        level : str
            ``STUDY``, ``SERIES`` or ``IMAGE``.
        keys : Mapping
            Keyword and value of every attribute of the identifier; an empty value asks for the attribute.
        most : int
            More answers than this are no answer.

        Returns
        -------
        list of pydicom.dataset.Dataset
            As the peer gave them, unjudged; answers that cannot be decoded are left out.

        Raises
        ------
        Transient
            ``peer_silent``, ``peer_aborted``; ``find_failed`` with the status of a failure; ``find_endless`` when the
            peer answers without end.
        """
        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value)
        try:
            return self._answers(identifier, most)
        except RuntimeError as error:  # pynetdicom, when the association ended in between
            raise Transient("peer_aborted", f"{words(self._peer)} ended the association before the query") from error

    def _answers(self, identifier: Dataset, most: int) -> list[Dataset]:
        assert self._assoc is not None
        self._message_id += 1
        started = asked = time.monotonic()
        found: list[Dataset] = []
        responses = self._assoc.send_c_find(
            identifier, StudyRootQueryRetrieveInformationModelFind, msg_id=self._message_id
        )
        for status, answer in responses:
            now = time.monotonic()
            if "Status" not in status:
                raise no_answer(self._peer, now - asked, self._timeout_s)
            if status.Status not in _PENDING:
                self._check_end(int(status.Status))
                return found
            if answer is not None:
                found.append(answer)
            if len(found) > most or now - started > _WHOLE_QUERY * self._timeout_s:
                # The reactor stands still until the last answer was read, which here is never.
                self._assoc._reactor_checkpoint.set()
                raise Transient("find_endless", f"{words(self._peer)} answers a C-FIND without end")
            asked = now
        raise no_answer(self._peer, time.monotonic() - asked, self._timeout_s)

    def _check_end(self, status: int) -> None:
        if status != 0:
            reason = f"{words(self._peer)} answered a C-FIND with status 0x{status:04X}"
            raise Transient("find_failed", reason, {"status": f"0x{status:04X}"})
