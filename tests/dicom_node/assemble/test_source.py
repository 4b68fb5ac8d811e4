"""What is made of a source's answers to C-FIND, over real associations: counts, lists, nonsense, back-off, no patient.

Left out: the verb itself (`test_net_find`), what the counts do to completion (`test_counted`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicom_node.assemble.source import BY_COUNT, BY_LIST, HeldSeries, Inquiry, ask_for_study
from dicom_node.net.find import FindSession
from dicom_node.net.remote import Remote
from dicom_node.settings import Peer, Role, Settings
from tests.dicom_node.dicom.builders import PATIENT_NAME, uid
from tests.dicom_node.net.archive import Archive, series_answer
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import ManualClock

STUDY, A, B = uid("study"), uid("a"), uid("b")


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive({STUDY: {A: ["1.1", "1.2", "1.3"], B: ["2.1"]}})
    with made.listening():
        yield made


def _held(archive: Archive, *wanted: str) -> dict[str, HeldSeries]:
    with FindSession(archive.remote, "JMMDA_NODE", timeout_s=5.0) as session:
        return ask_for_study(session, STUDY, set(wanted))


def test_one_query_brings_the_counts_of_all_series(archive: Archive) -> None:
    assert _held(archive, A) == {A: HeldSeries(3, BY_COUNT, "CT"), B: HeldSeries(1, BY_COUNT, "CT")}
    assert archive.levels == ["SERIES"]


def test_images_are_listed_where_the_peer_does_not_count(archive: Archive) -> None:
    archive.counts = False
    archive.held[STUDY][A].append("1.3")  # told twice
    assert _held(archive, A) == {A: HeldSeries(3, BY_LIST, "CT"), B: HeldSeries(None, BY_COUNT, "CT")}
    assert archive.levels == ["SERIES", "IMAGE"]


@pytest.mark.parametrize("count", ["0", "-3", "2000000", "many", "3\\4", "1.5"])
def test_a_count_that_makes_no_sense_is_none(archive: Archive, count: str) -> None:
    answer = series_answer(STUDY, A, None)
    answer.add_new("NumberOfSeriesRelatedInstances", "LO", count)
    archive.says = [answer]
    assert _held(archive) == {A: HeldSeries(None)}


def test_other_studies_and_nameless_series_are_left_out_and_two_counts_are_none(archive: Archive) -> None:
    nameless = series_answer(STUDY, A, 5)
    del nameless.SeriesInstanceUID
    archive.says = [series_answer(uid("other"), A, 9), nameless, series_answer(STUDY, B, 4), series_answer(STUDY, B, 5)]
    assert _held(archive) == {B: HeldSeries(None)}


class _Silent(FindSession):
    """A session whose answers are at hand."""

    def __init__(self, answers: list[Dataset]) -> None:
        self._said = answers

    def find(self, level: str, keys, *, most: int = 10_000) -> list[Dataset]:
        return self._said


@given(st.lists(st.tuples(st.sampled_from([A, B, "", "x" * 80]), st.one_of(st.none(), st.integers(-5, 10**7)))))
def test_whatever_is_said_gives_counts_of_named_series_only(rows: list[tuple[str, int | None]]) -> None:
    answers = []
    for series, count in rows:
        answer = Dataset()
        answer.add_new("SeriesInstanceUID", "LO", series[:64] if series != "x" * 80 else "not a uid")
        answer.NumberOfSeriesRelatedInstances = None if count is None else str(count)
        answers.append(answer)
    held = ask_for_study(_Silent(answers), STUDY, set())
    assert set(held) == {series for series, _ in rows if series in (A, B)}
    for series, one in held.items():
        said = {count for name, count in rows if name == series}
        assert one.instances is None or said == {one.instances}


def _inquiry(remote: Remote, clock: ManualClock, timeout_s: float = 5.0) -> tuple[Inquiry, Peer, list[int]]:
    peer = Peer(name=remote.name, ae_titles=(remote.called_ae_title,), host=remote.host, port=remote.port,
                roles=(Role.SOURCE, Role.QUERY))  # fmt: skip
    settings = Settings.model_validate(
        {"peers": (*(), peer, Peer(name="to", ae_titles=("TO",), host="10.0.0.1", port=1, roles=("destination",))),
         "intake": {"find_timeout_s": timeout_s}}
    )  # fmt: skip
    told: list[int] = []
    return Inquiry(clock, lambda: settings, lambda: told.append(1)), peer, told


def test_an_answer_is_kept_with_the_moment_of_the_question_and_forgotten_on_demand(archive: Archive) -> None:
    clock = ManualClock()
    inquiry, peer, told = _inquiry(archive.remote, clock)
    inquiry.ask(peer, STUDY, {A}, since=clock.monotonic())
    assert wait_until(lambda: told)
    held = inquiry.held(STUDY)
    assert held is not None
    assert (held.peer, held.asked_at, held.instances_of(A), held.instances_of(uid("?"))) == ("pacs", 1000.0, 3, None)
    first_wait_s = held.again_at - held.asked_at
    inquiry.ask(peer, STUDY, {A}, since=clock.monotonic())
    assert wait_until(lambda: len(told) == 2)
    again = inquiry.held(STUDY)
    assert again is not None
    assert again.repeats == 2
    assert again.again_at - again.asked_at > first_wait_s
    inquiry.forget(STUDY)
    assert inquiry.held(STUDY) is None


def test_a_peer_that_does_not_answer_is_left_alone_for_a_while(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    inquiry, peer, told = _inquiry(Remote("pacs", "PACS", "127.0.0.1", free_port), clock, timeout_s=0.5)
    with caplog.at_level(logging.WARNING, logger="dicom_node"):
        inquiry.ask(peer, STUDY, {A}, since=1000.0)
        assert wait_until(lambda: told)
        inquiry.stop()
    assert inquiry.held(STUDY) is None
    assert sum("peer unreachable" in one.message for one in caplog.records) == 1
    assert PATIENT_NAME not in caplog.text


def test_after_a_failure_nothing_is_asked_until_the_wait_is_over(archive: Archive) -> None:
    clock = ManualClock()
    archive.status = 0xC000
    inquiry, peer, told = _inquiry(archive.remote, clock)
    inquiry.ask(peer, STUDY, {A}, since=1000.0)
    assert wait_until(lambda: told)
    archive.status = 0x0000
    inquiry.ask(peer, STUDY, {A}, since=1000.0)
    clock.advance(4.0)
    inquiry.ask(peer, STUDY, {A}, since=1000.0)
    assert (len(archive.asked), inquiry.held(STUDY)) == (1, None)
    clock.advance(2.0)
    inquiry.ask(peer, STUDY, {A}, since=1000.0)
    assert wait_until(lambda: inquiry.held(STUDY) is not None)


def test_a_closed_inquiry_asks_nobody(archive: Archive) -> None:
    inquiry, peer, _ = _inquiry(archive.remote, ManualClock())
    inquiry.stop()
    inquiry.ask(peer, STUDY, {A}, since=1000.0)
    assert archive.asked == []
