"""The journal of refusals alone: grouping, its bound, and what does not belong into it.

Written for real in `test_receive_limits`.
"""

from __future__ import annotations

from pathlib import Path

from dicom_node.ledger import refusals
from dicom_node.ledger.refusals import Refusal, note_refusal, read_refusals


def test_the_last_one_comes_first_and_the_same_is_counted(tmp_path: Path) -> None:
    one = Refusal("calling_ae", "unknown", "10.0.0.1", "A", "NODE")
    other = Refusal("calling_ae", "unknown", "10.0.0.2", "A", "NODE")
    for refusal in (one, other, one):
        note_refusal(tmp_path, refusal)
    assert [(found.refusal, found.count) for found in read_refusals(tmp_path)] == [(one, 2), (other, 1)]
    first = read_refusals(tmp_path)[0].to_json()
    assert first["count"] == 2
    assert first["host"] == "10.0.0.1"
    assert str(first["first_at"]) < str(first["last_at"])


def test_a_caller_that_knocks_for_ever_costs_two_files(tmp_path: Path) -> None:
    refusal = Refusal("calling_ae", "x" * 5000, "10.0.0.1")
    for _ in range(3 * refusals.MOST_BYTES // 5000):
        note_refusal(tmp_path, refusal)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert all(file.stat().st_size < refusals.MOST_BYTES + 6000 for file in files)
    (found,) = read_refusals(tmp_path)
    assert found.count >= refusals.MOST_BYTES // 5200


def test_nothing_and_nonsense_are_read_as_nothing(tmp_path: Path) -> None:
    assert read_refusals(tmp_path / "missing") == []
    (tmp_path / "refusals.jsonl").write_text('{"at":"x"}\nnonsense\n[1]\n{"code":"busy"')
    assert read_refusals(tmp_path) == []
    note_refusal(tmp_path, Refusal("busy", "full", "10.0.0.1"))  # stands on a line of its own after the torn one
    assert [one.refusal.code for one in read_refusals(tmp_path)] == ["busy"]
