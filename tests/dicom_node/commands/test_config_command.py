"""`jmmda-node config`: exit codes, texts and the file that init writes.

Covers the four commands through Typer's runner. Which faults are found is tested in `test_settings`; the whole command
line as a process is tested with `dicom_node.cli`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.commands.config import app, find_config
from dicom_node.errors import Refused
from dicom_node.settings import Settings, SettingsError, load_settings, parse_settings
from dicom_node.settings.template import template_text

RUNNER = CliRunner()
ANSWERS = "MY_NODE\n11200\n/srv/node\nARCHIVE\n10.1.2.3\n4242\n"
BAD = "[node]\nport = 0\n\n[nod]\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JMMDA_NODE_CONFIG", raising=False)


def write(text: str, name: str = "node.toml") -> Path:
    file = Path(name)
    file.write_text(text)
    return file


def test_check_names_every_fault_and_exits_2() -> None:
    write(BAD)
    done = RUNNER.invoke(app, ["check", "node.toml"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "node.toml:2: node.port: should be greater than or equal to 1",
        "node.toml:4: nod: unknown key; did you mean 'node'?",
    ]
    assert done.stdout == ""


def test_check_as_json() -> None:
    write(BAD)
    done = RUNNER.invoke(app, ["check", "node.toml", "--json"])
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["faults"][0] == {
        "file": "node.toml",
        "line": 2,
        "key": "node.port",
        "reason": "should be greater than or equal to 1",
    }
    write("")
    done = RUNNER.invoke(app, ["check", "node.toml", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["ok"] is True


def test_check_of_a_good_file() -> None:
    write(template_text())
    done = RUNNER.invoke(app, ["check", "node.toml"])
    assert done.exit_code == 0
    assert "no fault; 2 peers, 3 routes" in done.stdout


def test_show_prints_settings_that_can_be_used_again() -> None:
    write('[node]\nae_title = "MINE"\n')
    done = RUNNER.invoke(app, ["show", "node.toml"])
    assert done.exit_code == 0
    again = parse_settings(done.stdout, file="shown", base=Path("/elsewhere"))
    assert again == load_settings("node.toml")
    assert again.node.ae_title == "MINE"
    document = json.loads(RUNNER.invoke(app, ["show", "--json"]).stdout)
    assert document["node"]["ae_title"] == "MINE"
    assert document["delivery"]["attempts"] == 60
    assert set(document) == set(Settings.model_fields)


def test_show_of_a_bad_file_raises_what_the_command_line_turns_into_exit_code_2() -> None:
    write(BAD)
    assert isinstance(RUNNER.invoke(app, ["show", "node.toml"]).exception, SettingsError)


def test_schema_describes_every_section() -> None:
    done = RUNNER.invoke(app, ["schema"])
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False
    done = RUNNER.invoke(app, ["schema", "--out", "node.schema.json"])
    assert done.exit_code == 0
    assert "#:schema ./node.schema.json" in done.stdout
    assert json.loads(Path("node.schema.json").read_text()) == schema


def test_init_with_yes_asks_nothing_and_writes_the_annotated_file() -> None:
    done = RUNNER.invoke(app, ["init", "etc/node.toml", "--yes"])
    assert done.exit_code == 0, done.output
    assert Path("etc/node.toml").read_text() == template_text()
    assert RUNNER.invoke(app, ["check", "etc/node.toml"]).exit_code == 0


def test_init_asks_and_writes_the_answers_annotated() -> None:
    answers = "MY_NODE\n11200\n/srv/node\nARCHIVE\n10.1.2.3\n4242\n\n"
    done = RUNNER.invoke(app, ["init"], input=answers)
    assert done.exit_code == 0, done.output
    settings = load_settings("node.toml")
    assert (settings.node.ae_title, settings.node.port) == ("MY_NODE", 11200)
    assert settings.node.data_dir == Path("/srv/node")
    [peer] = settings.destinations_for("ARCHIVE")
    assert (peer.host, peer.port) == ("10.1.2.3", 4242)
    assert settings.output.object == "mr"
    assert "# Our AE title." in Path("node.toml").read_text()


def test_init_explains_both_kinds_of_object_and_writes_the_one_that_is_chosen() -> None:
    done = RUNNER.invoke(app, ["init"], input=f"{ANSWERS}sc\n")
    assert done.exit_code == 0, done.output
    assert "mr = MR Image Storage" in done.output
    assert "sc = Secondary Capture" in done.output
    assert load_settings("node.toml").output.object == "sc"


def test_init_refuses_a_kind_of_object_that_is_none() -> None:
    done = RUNNER.invoke(app, ["init"], input=f"{ANSWERS}ct\n")
    assert isinstance(done.exception, SettingsError)
    assert "output.object: must be 'mr' or 'sc'" in str(done.exception)
    assert not Path("node.toml").exists()
    assert RUNNER.invoke(app, ["init", "--yes", "--object", "ct"]).exit_code == 2
    assert not Path("node.toml").exists()


@pytest.mark.parametrize("kind", ["mr", "sc"])
def test_init_takes_the_kind_of_object_from_a_script(kind: str) -> None:
    assert RUNNER.invoke(app, ["init", "asked.toml", "--object", kind], input=ANSWERS).exit_code == 0
    assert RUNNER.invoke(app, ["init", "example.toml", "--yes", "--object", kind]).exit_code == 0
    assert load_settings("asked.toml").output.object == load_settings("example.toml").output.object == kind
    example = Path("example.toml").read_text()
    assert example.replace(f'object = "{kind}"', 'object = "mr"') == template_text()


def test_init_judges_the_answers_before_it_writes() -> None:
    answers = "A_TITLE_THAT_IS_FAR_TOO_LONG\n11200\n/srv/node\nARCHIVE\n10.1.2.3\n4242\n\n"
    done = RUNNER.invoke(app, ["init"], input=answers)
    assert isinstance(done.exception, SettingsError)
    assert "at most 16 characters" in str(done.exception)
    assert not Path("node.toml").exists()


def test_init_never_overwrites() -> None:
    write("mine")
    done = RUNNER.invoke(app, ["init", "--yes"])
    assert isinstance(done.exception, Refused)
    assert Path("node.toml").read_text() == "mine"


def test_where_the_settings_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config(Path("given.toml")) == Path("given.toml")
    nothing = RUNNER.invoke(app, ["check"])
    if not Path("/etc/jmmda-node/node.toml").exists():
        assert nothing.exit_code == 2
        assert "config init" in nothing.output
    Path("config").mkdir()
    write("", "config/node.toml")
    assert find_config(None) == Path("config/node.toml")
    write("")
    assert find_config(None) == Path("node.toml")
    monkeypatch.setenv("JMMDA_NODE_CONFIG", "/from/the/environment.toml")
    assert find_config(None) == Path("/from/the/environment.toml")


@pytest.mark.parametrize("command", ["check", "show", "schema", "init"])
def test_every_help_has_an_example(command: str) -> None:
    done = RUNNER.invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"jmmda-node config {command}" in " ".join(done.stdout.split())
