"""The table of bad input: each case says what arrives, what must come of it, and what an administrator does about it.

The tests run it and docs/bad-input.md is written from it, so neither can say anything else than the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.ledger.states import State
from tests.dicom_node.bad_input.bad_node import GOOD, BadNode, stack

NOTHING: Final = "nothing; the node goes on by itself"
SENDER: Final = "look at the sender: the log of the receiver names its AE title and address"
SCANNER: Final = "have the study corrected where it was made; `jmmda-node series show UID` has the figures"
SLICES_MISSING: Final = "have the sender send the series again; what is here already is not doubled"

#: Called once everything has been decided, for what the table has no column for.
Look = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    arrives, does, advice : str
        What is sent, what the node does, and what to do about it, in words.
    send : callable
        Sends it, and may return a further look at the outcome.
    answers : tuple of str
        Everything that the sender hears, in any order: statuses of C-STORE, fates of associations and connections.
    ends : mapping
        From the label of each series to its state and code, once all timers have run out.
    aside : tuple of str
        Codes under which files go to the quarantine.
    """

    arrives: str
    does: str
    advice: str
    send: Callable[[BadNode], Look | None]
    answers: tuple[str, ...]
    ends: Mapping[str, str]
    aside: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """The last column but one of the page: what the sender hears, states and codes."""
        states = sorted({f"`{end}`" for end in self.ends.values()})
        aside = [f"quarantine `{code}`" for code in self.aside]
        return ", ".join([*sorted(self.answers), *(states or ([] if aside else ["no series"])), *aside])


@dataclass(slots=True)
class Table:
    """Cases of one group, in the order of the page."""

    title: str
    cases: dict[str, Case] = field(default_factory=dict)

    def case(
        self,
        arrives: str,
        does: str,
        *,
        advice: str = NOTHING,
        answers: tuple[str, ...] = ("0x0000",),
        ends: Mapping[str, str] | str = "QUEUED",
        aside: tuple[str, ...] = (),
    ) -> Callable[[Callable[[BadNode], Look | None]], Callable[[BadNode], Look | None]]:
        """Add the decorated sender as a case; a bare string is the end of the one series labelled ``series``."""
        every = {"series": ends} if isinstance(ends, str) else dict(ends)

        def add(send: Callable[[BadNode], Look | None]) -> Callable[[BadNode], Look | None]:
            assert arrives not in self.cases
            self.cases[arrives] = Case(arrives, does, advice, send, answers, every, aside)
            return send

        return add


def hold(case: Case, node: BadNode, *, with_good: bool = True) -> None:
    """Send what the case sends, a good study behind it, and hold the node to the row; the good study must get through.

    A worker would take the tiny slices of that good study for no head, so that is left out there (`with_good` false).
    """
    node.begin(case.arrives)
    look = case.send(node)
    heard, good = set(node.heard), f"good after {case.arrives}"
    node.quiet()
    if with_good:
        node.send(stack(good))
    node.settle()
    node.work()
    assert heard == set(case.answers)
    assert node.ends() == case.ends
    assert node.asides() == set(case.aside)
    if look is not None:
        look()
    assert node.lost() == set()
    assert list(Path(node.room.paths.data_dir).rglob("*.part")) == []
    assert node.secrets_in_log() == set()
    if with_good:
        assert node.heard - heard <= {"0x0000"}
        assert node.ends(good) == {"series": "QUEUED"}
        assert len(node.jobs(study=good)[0].sources["files"]) == GOOD


# --- looks ---------------------------------------------------------------------------------------------------------


def slices(node: BadNode, count: int, *notes: str) -> None:
    """So many slices go into the newest job, with these notes among others."""
    job = node.jobs()[-1]
    assert (job.state, len(job.sources["files"])) == (State.QUEUED, count)
    assert set(notes) <= node.notes()


def whole(node: BadNode) -> None:
    """Every slice once, and one job for all of them."""
    assert node.count() == GOOD
    assert [len(job.sources["files"]) for job in node.jobs()] == [GOOD]


def pixels_as_sent(node: BadNode, sent: Sequence[Dataset]) -> None:
    """The worker would read the pixels of the data sets as they were sent."""
    for image, dataset in zip(node.volume().hu, sent, strict=True):
        assert (image + 1024 == dataset.pixel_array).all()
