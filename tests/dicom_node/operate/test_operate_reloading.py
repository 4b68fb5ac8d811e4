"""The supervisor's side of a reload, with real child processes that answer as a receiver may: yes, no, never, late.

The receiver's own answers are tested in `test_receive_process`, the whole node in `test_node_reload`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.operate import reloading
from dicom_node.operate.children import Child
from dicom_node.operate.reloading import ReloadOutcome, Reloads
from dicom_node.settings import Settings, load_settings
from tests.dicom_node.net.associations import wait_until

#: Answers each plan with what its argument says, and repeats the plan on standard error's behalf as ``got``.
RECEIVER = """
import json, sys
answer = sys.argv[1]
print(json.dumps({"event": "listening"}), flush=True)
for number, line in enumerate(sys.stdin):
    print(json.dumps({"event": "got", "plan": line.strip()}), flush=True)
    if answer == "no" and line.strip() == "plan 12.0":
        print(json.dumps({"event": "not_reloaded", "reason": "the certificate is unreadable"}), flush=True)
    elif answer != "never":
        print(json.dumps({"event": "reloaded"}), flush=True)
"""


def plan_of(settings: Settings) -> str:
    return f"plan {settings.intake.quiet_s}\n"


class Desk:
    """A supervisor's reloads with some receivers, and what these got."""

    def __init__(self, file: Path, receivers: list[Child]) -> None:
        self.reloads = Reloads(file, plan_of)
        self.receivers = receivers
        self.got: dict[str, list[str]] = {receiver.name: [] for receiver in receivers}
        self.running = load_settings(file)

    def listen(self) -> None:
        for receiver in self.receivers:
            for event in receiver.events():
                self.reloads.heard(receiver.name, event)
                if event["event"] == "got":
                    self.got[receiver.name].append(event["plan"])

    def reload(self, *requests: str) -> tuple[ReloadOutcome, Settings | None]:
        for request in requests:
            self.reloads.want(request)
        refused = self.reloads.begin(self.running, self.receivers)
        if refused is not None:
            return refused, None
        found: list[tuple[ReloadOutcome, Settings | None]] = []

        def ended() -> bool:
            self.listen()
            concluded = self.reloads.conclude(self.receivers)
            found.extend([concluded] if concluded is not None else [])
            return bool(found)

        assert wait_until(ended, 20)
        return found[0]


@contextmanager
def desk(file: Path, *answers: str) -> Iterator[Desk]:
    children = [
        Child(f"receiver {number}", (sys.executable, "-c", RECEIVER, answer)) for number, answer in enumerate(answers)
    ]
    file.write_text("[intake]\nquiet_s = 10\n")
    try:
        for child in children:
            child.start_when_due()
        yield Desk(file, children)
    finally:
        for child in children:
            child.stop(5)


def test_when_every_receiver_agrees_the_settings_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with desk(file, "yes", "yes") as one:
        file.write_text("[intake]\nquiet_s = 12\n")
        outcome, fresh = one.reload("a", "b")
        assert outcome.taken
        assert outcome.requests == ("a", "b")
        assert outcome.changed == ("intake.quiet_s",)
        assert fresh is not None
        assert fresh.intake.quiet_s == 12
        assert ReloadOutcome.from_json(outcome.to_json()) == outcome


def test_when_one_says_no_all_go_back(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with desk(file, "yes", "no") as one:
        file.write_text("[intake]\nquiet_s = 12\n")
        outcome, fresh = one.reload()
        assert (outcome.taken, fresh) == (False, None)
        assert outcome.faults == ("receiver 1: the certificate is unreadable",)

        def back() -> bool:
            one.listen()
            return all(got == ["plan 12.0", "plan 10.0"] for got in one.got.values())

        assert wait_until(back), one.got
        # The answers to going back are none to the next reload.
        file.write_text("[intake]\nquiet_s = 13\n")
        outcome, fresh = one.reload()
        assert outcome.taken, outcome.faults
        assert {got[-1] for got in one.got.values()} == {"plan 13.0"}


def test_a_receiver_that_never_answers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "ANSWER_LIMIT_S", 1.0)
    file = tmp_path / "node.toml"
    with desk(file, "yes", "never") as one:
        file.write_text("[intake]\nquiet_s = 12\n")
        outcome, fresh = one.reload()
        assert (outcome.taken, fresh) == (False, None)
        assert "receiver 1 did not answer" in outcome.faults[0]


def test_one_that_ends_meanwhile_owes_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with desk(file, "yes", "never") as one:
        file.write_text("[intake]\nquiet_s = 12\n")
        one.reloads.want()
        assert one.reloads.wanted
        assert one.reloads.begin(one.running, one.receivers) is None
        one.reloads.want()
        assert not one.reloads.wanted, "one at a time"
        one.receivers[1].stop(5)
        one.reloads.ended("receiver 1")
        one.listen()
        assert wait_until(lambda: one.listen() or one.reloads.conclude(one.receivers) is not None)


def test_a_bad_file_and_a_fixed_key_reach_no_receiver(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with desk(file, "yes") as one:
        file.write_text("[intake]\nquiet = 12\n")
        outcome, fresh = one.reload()
        assert not outcome.taken
        assert f"{file}:2: intake.quiet: unknown key" in outcome.faults[0]
        file.write_text('[intake]\nquiet_s = 12\n[node]\ndata_dir = "elsewhere"\n')
        outcome, fresh = one.reload()
        assert (outcome.taken, fresh) == (False, None)
        assert "node.data_dir: cannot change" in outcome.faults[0]
        one.listen()
        assert one.got == {"receiver 0": []}
