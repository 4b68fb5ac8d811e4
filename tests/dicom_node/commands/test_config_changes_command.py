"""`jmmda-node config diff` of two files, and what both commands say where no node runs.

A running node is compared and reloaded in `test_node_reload`; what counts as a change is tested in
`test_settings_changes`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from dicom_node.commands import config_changes
from dicom_node.errors import Refused
from dicom_node.settings import SettingsError

app = Typer()
config_changes.register(app)

BEFORE = '[node]\ndata_dir = "/srv/node"\n[intake]\nquiet_s = 11\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    before, after = tmp_path / "before.toml", tmp_path / "after.toml"
    before.write_text(BEFORE)
    after.write_text(BEFORE.replace("11", "12") + '[output]\nobject = "sc"\n[workers]\nreceivers = 2\n')
    return before, after


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_two_files_are_compared_key_by_key(files: tuple[Path, Path]) -> None:
    done = run("diff", *files)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines() if "." in line.split()[0]}
    assert lines["intake.quiet_s"].endswith("11.0 12.0 by a reload same")
    assert lines["output.object"].endswith('"mr" "sc" by a reload new')
    assert lines["workers.receivers"].endswith("1 2 after a restart same")
    assert "can only change by a restart" in done.stdout


def test_as_json(files: tuple[Path, Path]) -> None:
    done = run("diff", *files, "--json")
    document = json.loads(done.stdout)
    assert (document["before"], document["after"]) == tuple(map(str, files))
    assert [change["key"] for change in document["changes"]] == ["intake.quiet_s", "output.object", "workers.receivers"]
    assert document["changes"][0] == {
        "key": "intake.quiet_s",
        "before": 11.0,
        "after": 12.0,
        "needs_restart": False,
        "new_uids": False,
    }


def test_no_difference(files: tuple[Path, Path]) -> None:
    done = run("diff", files[0], files[0])
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("no difference")


def test_a_bad_file_is_named(files: tuple[Path, Path]) -> None:
    files[1].write_text("[nod]\n")
    assert isinstance(run("diff", *files).exception, SettingsError)
    assert isinstance(run("reload", files[1]).exception, SettingsError)


@pytest.mark.parametrize("verb", ["diff", "reload"])
def test_without_a_running_node_both_refuse(tmp_path: Path, verb: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndata_dir = "data"\n')
    done = run(verb, file)
    assert isinstance(done.exception, Refused)
    assert done.exception.code == "not_running"
    assert str(tmp_path / "data") in str(done.exception)
    assert not (tmp_path / "data").exists()
