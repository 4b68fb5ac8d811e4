"""A query/retrieve peer in the test's hand: answers truly, or as it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

KEYS = ("StudyDate", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass
class QrPeer:
    """What it holds and how it behaves.

    Attributes
    ----------
    held : list of Dataset
        Instances; their StudyDate counts too.
    says : callable or None
        Answers to a query in place of the true ones.
    move, get : callable or None
        Handlers in place of the well-behaved ones.
    asked : list of (str, str)
        Verb and level of every request.
    statuses : list of int
        What we answered to its C-STORE requests.
    """

    held: list[Dataset] = field(default_factory=list)
    says: Callable[[Dataset], list[Dataset]] | None = None
    move: Callable[[Any], Iterator[Any]] | None = None
    get: Callable[[Any], Iterator[Any]] | None = None
    verbs: tuple[str, ...] = (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    )
    asked: list[tuple[str, str]] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def listening(self) -> Iterator[QrPeer]:
        """Answer on a free loopback port while the block lasts."""
        entity = AE("PACS")
        for model in (Verification, *self.verbs):
            entity.add_supported_context(model)
        entity.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move), (evt.EVT_C_GET, self._get)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()
            for assoc in server.active_associations:
                assoc.abort()

    def matching(self, query: Dataset) -> list[Dataset]:
        """Instances that a query is about."""
        given = {keyword: str(query.get(keyword, "") or "") for keyword in KEYS}
        return [one for one in self.held if all(str(one[key].value) == value for key, value in given.items() if value)]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        self.asked.append(("C-FIND", str(query.QueryRetrieveLevel)))
        for answer in (self.says or self.true_answers)(query):
            yield 0xFF00, answer
        yield 0x0000, None

    def true_answers(self, query: Dataset) -> list[Dataset]:
        """Answer as an archive does."""
        level = str(query.QueryRetrieveLevel)
        unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}[level]
        groups: dict[str, list[Dataset]] = {}
        for one in self.matching(query):
            groups.setdefault(str(one[unique].value), []).append(one)
        answers = []
        for group in groups.values():
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            answer.StudyInstanceUID = group[0].StudyInstanceUID
            if level == "STUDY":
                answer.StudyDate = group[0].StudyDate
            else:
                answer.SeriesInstanceUID = group[0].SeriesInstanceUID
                answer.Modality = group[0].Modality
                answer.NumberOfSeriesRelatedInstances = len(group)
            answers.append(answer)
        return answers

    def _get(self, event: Any) -> Iterator[Any]:
        self.asked.append(("C-GET", str(event.identifier.QueryRetrieveLevel)))
        yield from (self.get or self.true_get)(event)

    def true_get(self, event: Any) -> Iterator[Any]:
        """Send what was asked for."""
        found = self.matching(event.identifier)
        yield len(found)
        for one in found:
            yield 0xFF00, one
            self.stored.append(str(one.SOPInstanceUID))

    def _move(self, event: Any) -> Iterator[Any]:
        self.asked.append(("C-MOVE", str(event.identifier.QueryRetrieveLevel)))
        if self.move is None:
            yield None, None
            return
        yield from self.move(event)
