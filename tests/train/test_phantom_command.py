"""The command that makes sets of phantoms: options, summary, continuation and refusals, without the other commands.

Left out: what is in the files (modules of sets and DICOM).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from train.commands.phantom import phantom

SMALL = ["--matrix", "32", "--slices", "3", "--workers", "1"]


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(phantom)
    return made


def run(app: typer.Typer, *options: object) -> tuple[int, str, str]:
    said = CliRunner().invoke(app, [str(option) for option in options])
    return said.exit_code, said.stdout, said.stderr


def test_several_centres_and_a_summary(app: typer.Typer, tmp_path: Path) -> None:
    code, out, _ = run(app, "--out", tmp_path, "--centre", "A", "--centre", "C", "--n", 2, "--json", *SMALL)
    assert code == 0
    report = json.loads(out)
    assert (report["made"], report["kept"]) == (4, 0)
    assert {name: facts["patients"] for name, facts in report["centres"].items()} == {"A": 2, "C": 2}
    assert sum(count for row in report["lesion_kinds"].values() for count in row.values()) == 4
    assert "phantom" in report["data"]
    code, out, _ = run(app, "--out", tmp_path, "--centre", "A", "--centre", "C", "--n", 2, *SMALL)
    assert code == 0
    assert "0 phantom patients made, 4 kept" in " ".join(out.split())


def test_a_dry_run_writes_nothing_and_tells_the_papers_numbers(app: typer.Typer, tmp_path: Path) -> None:
    code, out, _ = run(app, "--out", tmp_path / "set", "--like", "table1", "--dry-run", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["centres"] == {"A": {"patients": 228, "slices": 7778}, "B": {"patients": 635, "slices": 8167}}
    table = report["notes"]["table1"]
    assert all(table[c][key]["paper"] == table[c][key]["set"] for c in "AB" for key in ("men", "women", "slices"))
    assert len(report["notes"]["not_matched"]) == 4
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--centre", "Q"], "Q"),
        (["--lesion", "tumour"], "tumour"),
        (["--like", "table1", "--n", "3"], "table1"),
        (["--matrix", "8"], "matrix"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(app: typer.Typer, tmp_path: Path, options: list[str], word: str) -> None:
    code, out, err = run(app, "--out", tmp_path / "set", *options)
    assert code == 2
    assert word in out + err
    assert not (tmp_path / "set").exists()


def test_a_set_larger_than_the_disk_fails_at_once(app: typer.Typer, tmp_path: Path) -> None:
    code, _, err = run(app, "--out", tmp_path / "set", "--n", 3, "--matrix", 2_000_000)
    assert code == 1
    assert "MiB needed" in err
    assert not (tmp_path / "set").exists()
