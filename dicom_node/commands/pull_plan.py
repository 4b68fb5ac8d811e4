"""What `jmmda-node pull` is to ask a peer for: found by C-FIND, and judged before it is believed.

A PACS may answer anything: unusable UIDs, other studies than were asked for, days outside the range, counts that are no
numbers. Such answers are left out and counted. Only UIDs, dates, modality, body part and counts are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.dicom.reading import ElementReader
from dicom_node.errors import Refused

#: Asks a peer once: level and keys to answers (`dicom_node.net.find.FindSession.find`).
Ask = Callable[[str, Mapping[str, str]], list[Dataset]]

_MOST_INSTANCES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which series are asked for; an empty text sets no condition.

    Attributes
    ----------
    modality, body_part : str
        Compared without regard to case. A series whose body part the peer does not tell is taken: many leave it out,
        and the node looks at the images itself.
    series_instance_uid : str
        Only this one.
    """

    modality: str = ""
    body_part: str = ""
    series_instance_uid: str = ""

    @property
    def takes_all(self) -> bool:
        """Whether whole studies are asked for."""
        return not (self.modality or self.body_part or self.series_instance_uid)

    def takes(self, series_instance_uid: str, modality: str, body_part: str) -> bool:
        """Whether a series is asked for."""
        return (
            self.series_instance_uid in ("", series_instance_uid)
            and (not self.modality or modality.upper() == self.modality.upper())
            and (not self.body_part or body_part.upper() in ("", self.body_part.upper()))
        )


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What is to be pulled of one study.

    Attributes
    ----------
    study_instance_uid : str
        Which study.
    series : Mapping
        UID of every series to be pulled and how many images the peer says it has (None: it does not say).
    whole : bool
        Whether that is all the peer holds of the study, so that one request at study level brings it.
    """

    study_instance_uid: str
    series: Mapping[str, int | None]
    whole: bool

    @property
    def expected(self) -> int | None:
        """Images that should arrive, None when the peer does not say."""
        counts = [count for count in self.series.values() if count is not None]
        return sum(counts) if len(counts) == len(self.series) else None

    def without(self, known: Mapping[str, int | None]) -> StudyPlan:
        """Leave out the series that were pulled before and have not grown since."""
        rest = {
            uid: count
            for uid, count in self.series.items()
            if uid not in known or (count is not None and count > (known[uid] or 0))
        }
        return StudyPlan(self.study_instance_uid, rest, self.whole and len(rest) == len(self.series))


@dataclass(slots=True)
class Doubts:
    """Answers that were left out.

    Attributes
    ----------
    unusable : int
        Without a UID that could be one, or about something else than was asked.
    outside : int
        Studies of another day than was asked for.
    """

    unusable: int = 0
    outside: int = 0


def days_between(first: date, last: date) -> Iterator[date]:
    """Yield every day from the first to the last."""
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)


def studies_of_day(ask: Ask, day: date, modality: str, doubts: Doubts) -> list[str]:
    """UIDs of the studies of one day, in a fixed order.

    One question a day keeps the answers few: a PACS that stops at some number of matches would hide the rest.
    """
    text = f"{day:%Y%m%d}"
    found: set[str] = set()
    keys = {"StudyInstanceUID": "", "StudyDate": text, "ModalitiesInStudy": modality}
    for answer in ask("STUDY", keys):
        reader = ElementReader(answer)
        uid = reader.uid("StudyInstanceUID")
        if uid is None:
            doubts.unusable += 1
        elif reader.text("StudyDate") not in ("", text):
            doubts.outside += 1
        else:
            found.add(uid)
    return sorted(found)


def plan_study(ask: Ask, study_instance_uid: str, wanted: Wanted, doubts: Doubts) -> StudyPlan | None:
    """Find out what of a study is to be pulled; None when the peer holds nothing of it that is wanted."""
    keys = {
        "StudyInstanceUID": study_instance_uid,
        "SeriesInstanceUID": wanted.series_instance_uid,
        "Modality": "",
        "BodyPartExamined": "",
        "NumberOfSeriesRelatedInstances": "",
    }
    series: dict[str, int | None] = {}
    left_out = False
    for answer in ask("SERIES", keys):
        reader = ElementReader(answer)
        uid = reader.uid("SeriesInstanceUID")
        if uid is None or reader.uid("StudyInstanceUID") not in (None, study_instance_uid):
            doubts.unusable += 1
        elif wanted.takes(uid, reader.text("Modality"), reader.text("BodyPartExamined")):
            series[uid] = _count(reader)
        else:
            left_out = True
    if not series:
        return None
    return StudyPlan(study_instance_uid, series, wanted.takes_all and not left_out)


def named_study(ask: Ask, study_instance_uid: str, wanted: Wanted, doubts: Doubts) -> StudyPlan:
    """Plan a study that a person named.

    Raises
    ------
    Refused
        ``not_held`` when the peer holds nothing of it that is wanted.
    """
    plan = plan_study(ask, study_instance_uid, wanted, doubts)
    if plan is None:
        what = "a series of that UID in that study" if wanted.series_instance_uid else "anything of that study"
        raise Refused("not_held", f"the peer does not hold {what}" + ("" if wanted.takes_all else " that fits"))
    return plan


def _count(reader: ElementReader) -> int | None:
    count = reader.integer("NumberOfSeriesRelatedInstances")
    return count if count is not None and 0 < count <= _MOST_INSTANCES else None
