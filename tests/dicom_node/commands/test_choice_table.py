"""The table of the choice: `series show` and `synthesize --explain` say the same of the same study.

Left out: the rules (`tests/dicom_node/dicom/test_choice.py`) and the rest of both commands (test_journey, `offline`).
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import pydicom
import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from dicom_node.commands import journey, offline
from dicom_node.commands.choice_table import Judged, judged_in_ledger, print_choice
from dicom_node.dicom.choice import SeriesVerdict
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Study
from dicom_node.ledger.verdicts import VerdictView, verdicts_of
from dicom_node.settings import load_settings
from tests.dicom_node.dicom.builders import uid, write
from tests.dicom_node.node_cases import Room, head_stack, receive

CONFIG = """
[node]
data_dir = "data"
[[peers]]
name = "s"
ae_titles = ["SCANNER"]
host = "127.0.0.1"
port = 11199
roles = ["source", "destination"]
"""

app = Typer()
journey.register(app)
offline.register(app)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG)
    return path


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def _both(config: Path, study: str, folder: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of the node and of the folder."""
    stories = json.loads(_run("series", "show", study, "--config", config, "--json"))
    (plan,) = json.loads(_run("synthesize", folder, "--explain", "--json", "--config", config))
    assert all(story["choice"] == stories[0]["choice"] for story in stories)
    return stories[0]["choice"], plan["series"]


def _without_state(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key != "state"} for row in rows]


def test_node_and_folder_agree_on_the_real_study(shared_data: Path, tmp_path: Path, config: Path):
    folder = shared_data / "philips_study"
    datasets = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    room = Room(tmp_path / "data")
    receive(room, datasets)
    room.settle()
    room.ledger.close()
    node, offline_rows = _both(config, str(datasets[0].StudyInstanceUID), folder)
    assert _without_state(node) == offline_rows
    assert [(row["series_number"], row["code"]) for row in node] == [
        (201, "chosen"),
        (100, "localizer"),
        (401, "dose_screen"),
    ]
    assert [row["state"] for row in node] == ["QUEUED", "SKIPPED", "SKIPPED"]


def test_node_and_folder_agree_under_other_settings_and_print_one_line_a_series(tmp_path: Path, config: Path):
    # Thresholds of the gate and weights of the score: whichever door a study comes through, the same file counts.
    config.write_text(CONFIG + "[geometry]\nmax_gap_factor = 5.0\n[selection]\nscore_thickness_per_mm = 1.5\n")
    gap = [one for k, one in enumerate(head_stack(40, series="gap")) if k != 20]
    sharp = head_stack(series="bone", ConvolutionKernel="H70h", SeriesNumber="7")
    datasets = [*gap, *sharp, *head_stack(60, step=2.5, series="thin", SeriesNumber="3")]
    for index, dataset in enumerate(datasets):
        write(dataset, tmp_path / "folder" / f"{index:03d}.dcm")
    room = Room(tmp_path / "data", load_settings(config))
    receive(room, datasets)
    room.settle()
    room.ledger.close()
    node, offline_rows = _both(config, uid("study"), tmp_path / "folder")
    assert _without_state(node) == offline_rows
    assert [row["code"] for row in node] == ["chosen", "not_preferred", "bone_kernel"]
    assert node[0]["series_instance_uid"] == uid("study", "gap")

    shown = _run("series", "show", uid("study"), "--config", config)
    explained = _run("synthesize", tmp_path / "folder", "--explain", "--config", config)
    for row in node:
        number = str(row["series_number"])
        (line,) = [one for one in shown.splitlines() if row["code"] in one.split() and number in one.split()]
        assert str(row["reason"]) in line
        assert any(str(row["reason"]) in one and row["code"] in one.split() for one in explained.splitlines())
    assert shown.count("Series of the study") == 1, "three series of one study share one table"
    assert "geometry +100" in shown
    assert "geometry +100" in explained


def test_both_know_the_present_day(tmp_path: Path, config: Path):
    config.write_text(CONFIG + "[selection]\nmax_study_age_days = 30\n")
    room = Room(tmp_path / "data", load_settings(config))
    today = room.clock.now().astimezone().strftime("%Y%m%d")
    datasets = [*head_stack(series="prior"), *head_stack(study="new", series="new", StudyDate=today)]
    for index, dataset in enumerate(datasets):
        write(dataset, tmp_path / "folder" / dataset.StudyInstanceUID / f"{index:03d}.dcm")
    receive(room, datasets)
    room.settle()
    room.ledger.close()
    for study, code in ((uid("study"), "study_too_old"), (uid("new"), "chosen")):
        node, offline_rows = _both(config, study, tmp_path / "folder" / study)
        assert _without_state(node) == offline_rows
        assert [row["code"] for row in node] == [code]


def test_a_series_is_there_before_it_is_judged(tmp_path: Path, config: Path):
    room = Room(tmp_path / "data")
    receive(room, head_stack(series="head"))
    room.round()
    room.ledger.close()
    (story,) = json.loads(_run("series", "show", uid("study", "head"), "--config", config, "--json"))
    (row,) = story["choice"]
    assert (row["code"], row["state"], row["instances"], row["chosen"]) == ("not_judged", "RECEIVING", 24, False)


def test_our_own_result_that_came_back_has_its_row(tmp_path: Path, config: Path):
    room = Room(tmp_path / "data")
    receive(room, head_stack(series="head"))
    receive(room, head_stack(3, series="ours", ManufacturerModelName="jmmda-node"))
    room.settle()
    with room.ledger.reading() as session:
        rows = judged_in_ledger(verdicts_of(session, session.query(Study).one()))
    assert [(row.verdict.code, row.state) for row in rows] == [("chosen", "QUEUED"), ("loop_guard", "SKIPPED")]
    room.ledger.close()


def test_a_series_that_is_the_chosen_one_no_more_says_why():
    verdict = SeriesVerdict("1.2", True, True, 99.0, "chosen", "the only eligible series", points={"geometry": 99.0})
    view = VerdictView("1.2", State.REFUSED.value, "gap", "1 gap", 24, False, verdict.to_json())
    (row,) = judged_in_ledger([view])
    assert (row.verdict.code, row.verdict.reason, row.verdict.chosen) == ("gap", "1 gap", False)


def test_a_verdict_of_an_older_version_has_its_row():
    old = {"series_instance_uid": "1.2", "eligible": False, "chosen": False, "score": 0.0, "code": "x", "reason": "y"}
    (row,) = judged_in_ledger([VerdictView("1.2", "SKIPPED", "x", "y", 3, False, old)])
    assert (row.verdict.code, row.verdict.series_number) == ("x", None)
    out = io.StringIO()
    print_choice(Console(file=out, width=40), "1", [row, Judged(row.verdict)])
    assert out.getvalue().count(" x ") == 2
