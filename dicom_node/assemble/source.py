"""What the source of a study holds of it, asked by C-FIND, so that nothing has to be guessed from silence.

One query per study at SERIES level brings the count of every series (NumberOfSeriesRelatedInstances (0020,1209),
PS3.4 C.3.4); where a peer leaves that out, the images of the series are listed and counted. All of it happens beside
the sweep, in a thread per peer that lives as long as there is something to ask. A peer that rejects, fails, is silent
or talks nonsense costs nothing but this one sign.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.dicom.reading import ElementReader
from dicom_node.errors import RETRY, NodeError
from dicom_node.ledger.clock import Clock
from dicom_node.ledger.place import place_of
from dicom_node.net.find import FindSession
from dicom_node.settings import Peer, Settings

logger = logging.getLogger(__name__)

#: No series has more instances; a larger count is nonsense.
_MOST_INSTANCES: Final = 1_000_000
#: How a count was had, as it is written into the ledger.
BY_COUNT: Final = "NumberOfSeriesRelatedInstances"
BY_LIST: Final = "list of images"


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """One series as its source holds it.

    Attributes
    ----------
    instances : int or None
        None when the source does not say.
    by : str
        How the count was had: `BY_COUNT` or `BY_LIST`.
    modality : str
        Empty when the source does not say.
    """

    instances: int | None
    by: str = BY_COUNT
    modality: str = ""


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """What a source said of one study.

    Attributes
    ----------
    peer : str
        Name of the peer.
    asked_at : float
        When it was asked, on the monotonic clock.
    again_at : float
        When asking the same again is worth it.
    repeats : int
        How often in a row it has said just this.
    series : Mapping
        Every series that it holds, by UID.
    """

    peer: str
    asked_at: float
    again_at: float
    repeats: int
    series: Mapping[str, HeldSeries]

    def instances_of(self, series_instance_uid: str) -> int | None:
        """How many instances of a series the source holds, None when it does not say or know."""
        held = self.series.get(series_instance_uid)
        return None if held is None or not held.instances else held.instances


@dataclass(slots=True)
class _Lane:
    """What is to be asked of one peer, and how patient we have become with it."""

    peer: Peer
    questions: dict[str, set[str]] = field(default_factory=dict)
    under_way: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    not_before: float = 0.0
    thread: threading.Thread | None = None


class Inquiry:
    """Asks sources and remembers what they said.

    Parameters
    ----------
    clock : Clock
        Its monotonic side alone is used.
    settings : callable
        Returns the settings in force.
    answered : callable
        Called (from a thread of the inquiry) when there is an answer to look at.
    """

    def __init__(self, clock: Clock, settings: Callable[[], Settings], answered: Callable[[], None]) -> None:
        self._clock = clock
        self._settings = settings
        self._answered = answered
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._held: dict[str, HeldStudy] = {}
        self._closed = False

    def held(self, study_instance_uid: str) -> HeldStudy | None:
        """Return the last answer about a study, however old it is."""
        with self._lock:
            return self._held.get(study_instance_uid)

    def ask(self, peer: Peer, study_instance_uid: str, series: set[str], *, since: float) -> None:
        """Have a peer asked about a study; returns at once.

        Parameters
        ----------
        peer : Peer
            With role query.
        study_instance_uid : str
            Which study.
        series : set of str
            The series whose count matters: their images are listed where the peer does not count them.
        since : float
            A query that was begun after this moment (monotonic) answers the question.
        """
        with self._lock:
            lane = self._lanes.setdefault(peer.name, _Lane(peer))
            lane.peer = peer
            being_asked = lane.under_way.get(study_instance_uid)
            answers_it = being_asked is not None and being_asked >= since
            if self._closed or answers_it or self._clock.monotonic() < lane.not_before:
                return
            lane.questions.setdefault(study_instance_uid, set()).update(series)
            if lane.thread is None:
                lane.thread = threading.Thread(
                    target=self._converse, args=(lane,), name=f"find-{peer.name}", daemon=True
                )
                lane.thread.start()

    def forget(self, study_instance_uid: str) -> None:
        """Drop what was said of a study that waits for nothing more."""
        with self._lock:
            self._held.pop(study_instance_uid, None)
            for lane in self._lanes.values():
                lane.questions.pop(study_instance_uid, None)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Ask nothing more; a query under way ends by itself and is not waited for longer than this."""
        with self._lock:
            self._closed = True
            threads = [lane.thread for lane in self._lanes.values() if lane.thread is not None]
        for thread in threads:
            thread.join(timeout_s)

    def _converse(self, lane: _Lane) -> None:
        """Ask one peer until no question is left; the life of a thread."""
        while True:
            with self._lock:
                lane.under_way = dict.fromkeys(lane.questions, self._clock.monotonic())
                questions, lane.questions = lane.questions, {}
                if not questions or self._closed:
                    lane.thread = None
                    return
                peer = lane.peer
            trouble = self._ask_all(peer, questions)
            with self._lock:
                lane.under_way = {}
                lane.failures = 0 if trouble is None else lane.failures + 1
                wait_s = RETRY["find"].wait_s(lane.failures) if trouble else 0.0
                lane.not_before = self._clock.monotonic() + wait_s
                if trouble is not None:
                    lane.questions.clear()
            if trouble is not None:
                logger.warning("%s; the series is judged without it, and it is not asked for %.0f s", trouble, wait_s)
            self._answered()

    def _ask_all(self, peer: Peer, questions: Mapping[str, set[str]]) -> str | None:
        """Ask everything over one association; return what went wrong, without patient data."""
        settings = self._settings()
        try:
            with FindSession(peer, settings.node.ae_title, timeout_s=settings.intake.find_timeout_s) as session:
                for study, series in questions.items():
                    asked_at = self._clock.monotonic()
                    self._keep(peer.name, study, asked_at, ask_for_study(session, study, series))
        except NodeError as error:
            return error.reason
        except Exception as error:  # noqa: BLE001 - border of a thread: whatever a peer says may cost its sign alone
            return f"the C-FIND at peer {peer.name!r} failed: {place_of(error)}"
        return None

    def _keep(self, peer: str, study: str, asked_at: float, series: Mapping[str, HeldSeries]) -> None:
        with self._lock:
            before = self._held.get(study)
            repeats = before.repeats + 1 if before is not None and before.series == series else 1
            again_at = asked_at + RETRY["find"].wait_s(repeats)
            self._held[study] = HeldStudy(peer, asked_at, again_at, repeats, series)


def ask_for_study(session: FindSession, study_instance_uid: str, wanted: set[str]) -> dict[str, HeldSeries]:
    """Ask over an open association what a peer holds of a study.

    Parameters
    ----------
    session : FindSession
        Open.
    study_instance_uid : str
        Which study.
    wanted : set of str
        Series whose images are listed one by one where the peer does not count them.

    Returns
    -------
    dict
        Every series by its UID. What makes no sense (no or another study, a count that is negative or no number, two
        counts for one series) is left out.

    Raises
    ------
    NodeError
        See `FindSession.find`.
    """
    keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": "", "Modality": "", BY_COUNT: ""}
    found: dict[str, HeldSeries] = {}
    for answer in session.find("SERIES", keys):
        reader = ElementReader(answer)
        uid = reader.uid("SeriesInstanceUID")
        if uid is None or reader.uid("StudyInstanceUID") not in (None, study_instance_uid):
            continue
        one = HeldSeries(_count(reader), BY_COUNT, reader.text("Modality").upper())
        found[uid] = one if found.get(uid, one) == one else replace(one, instances=None)
    for uid in sorted(wanted & set(found)):
        if found[uid].instances is None:
            keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": uid, "SOPInstanceUID": ""}
            listed = _listed(session.find("IMAGE", keys), uid)
            found[uid] = replace(found[uid], instances=listed or None, by=BY_LIST)
    return found


def _count(reader: ElementReader) -> int | None:
    count = reader.integer(BY_COUNT)
    return count if count is not None and 0 < count <= _MOST_INSTANCES else None


def _listed(answers: list[Dataset], series_instance_uid: str) -> int:
    """Count the different instances of a series in a list of images."""
    readers = [ElementReader(answer) for answer in answers]
    return len(
        {
            uid
            for reader in readers
            if reader.uid("SeriesInstanceUID") in (None, series_instance_uid)
            and (uid := reader.uid("SOPInstanceUID")) is not None
        }
    )
