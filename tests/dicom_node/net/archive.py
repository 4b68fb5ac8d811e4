"""A Study Root C-FIND acceptor over a plain dictionary, with switches for what a real archive may do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.net.remote import Remote


@dataclass
class Archive:
    """What it holds, and what it was asked.

    Attributes
    ----------
    held : dict
        Study UID to series UID to the list of its SOP Instance UIDs.
    counts : bool
        Whether NumberOfSeriesRelatedInstances is filled.
    modality : str
        Of every series.
    says : list of Dataset or None
        Answers to every query, whatever was asked, instead of the true ones.
    status : int
        Last status.
    asked : list of Dataset
        The identifiers of the queries.
    """

    held: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    counts: bool = True
    modality: str = "CT"
    says: list[Dataset] | None = None
    status: int = 0x0000
    asked: list[Dataset] = field(default_factory=list)
    remote: Remote = field(default_factory=lambda: Remote("pacs", "PACS", "127.0.0.1", 0))

    def hold(self, datasets: list[Dataset]) -> None:
        """Take instances in."""
        for one in datasets:
            series = self.held.setdefault(str(one.StudyInstanceUID), {}).setdefault(str(one.SeriesInstanceUID), [])
            series.append(str(one.SOPInstanceUID))

    @property
    def levels(self) -> list[str]:
        """Levels of the queries in their order."""
        return [str(one.QueryRetrieveLevel) for one in self.asked]

    @contextmanager
    def listening(self, *, sop_class: str = StudyRootQueryRetrieveInformationModelFind) -> Iterator[Archive]:
        """Answer on a free loopback port while the block lasts."""
        entity = AE("PACS")
        entity.add_supported_context(Verification)
        entity.add_supported_context(sop_class)
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)])
        self.remote = Remote("pacs", "PACS", "127.0.0.1", server.server_address[1])
        try:
            yield self
        finally:
            server.shutdown()
            for assoc in server.active_associations:
                assoc.abort()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        answers = self._true_answers(event.identifier) if self.says is None else self.says
        for answer in answers:
            yield 0xFF00, answer
        yield self.status, None

    def _true_answers(self, query: Dataset) -> list[Dataset]:
        series = self.held.get(str(query.StudyInstanceUID), {})
        if query.QueryRetrieveLevel == "SERIES":
            return [self._series_answer(query, uid, len(instances)) for uid, instances in series.items()]
        return [image_answer(query, uid) for uid in series.get(str(query.SeriesInstanceUID), [])]

    def _series_answer(self, query: Dataset, uid: str, count: int) -> Dataset:
        answer = series_answer(str(query.StudyInstanceUID), uid, count if self.counts else None)
        answer.Modality = self.modality
        return answer


def series_answer(study: str, series: str, count: object) -> Dataset:
    """An answer at SERIES level; a count of None leaves the attribute empty."""
    answer = Dataset()
    answer.QueryRetrieveLevel = "SERIES"
    answer.StudyInstanceUID, answer.SeriesInstanceUID = study, series
    answer.NumberOfSeriesRelatedInstances = None if count is None else str(count)
    return answer


def image_answer(query: Dataset, instance: str) -> Dataset:
    """An answer at IMAGE level."""
    answer = Dataset()
    answer.QueryRetrieveLevel = "IMAGE"
    answer.StudyInstanceUID, answer.SeriesInstanceUID = query.StudyInstanceUID, query.SeriesInstanceUID
    answer.SOPInstanceUID = instance
    return answer
