"""`jmmda-node doctor` as a user calls it: exit codes, the last line, JSON; and the page that describes it.

What each check finds is tested in `tests/dicom_node/operate/test_doctor_*`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pynetdicom.sop_class import MRImageStorage
from typer import Typer
from typer.testing import CliRunner, Result

from dicom_node.commands import doctor
from dicom_node.operate.doctor.findings import CHECKS, GROUPS
from dicom_node.operate.doctor.page import page
from tests.dicom_node.operate.doctor_cases import scp

ROOT = Path(__file__).resolve().parents[3]

app = Typer()
doctor.register(app)


def run(config: Path, *options: str) -> Result:
    result = CliRunner().invoke(app, ["--config", str(config), "--no-model", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(tmp_path: Path, port: int) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\ndata_dir = "data"\n[[peers]]\nname = "pacs"\nae_titles = ["PACS"]\nport = {port}\n'
        'host = "127.0.0.1"\nroles = ["source", "destination"]\n'
    )
    return file


def counts(line: str) -> tuple[int, ...]:
    found = re.fullmatch(r"doctor: (\d+) passed, (\d+) warnings, (\d+) failed", line)
    assert found, line
    return tuple(map(int, found.groups()))


def test_when_nothing_fails_the_exit_code_is_0_whatever_is_warned_of(tmp_path: Path) -> None:
    with scp(MRImageStorage) as port:
        done = run(write(tmp_path, port))
    assert done.exit_code == 0, done.stdout
    passed, warnings, failed = counts(done.stdout.splitlines()[-1])
    assert passed
    assert warnings
    assert not failed
    assert "pacs: peer.store" in done.stdout
    assert "administrator of pacs:" in done.stdout


def test_when_something_fails_the_exit_code_is_1(tmp_path: Path, free_port: int) -> None:
    done = run(write(tmp_path, free_port))
    assert done.exit_code == 1
    assert counts(done.stdout.splitlines()[-1])[2] == 1
    assert "nobody listens on" in done.stdout


def test_as_json(tmp_path: Path, free_port: int) -> None:
    done = run(write(tmp_path, free_port), "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["counts"]["fail"] == 1
    [fault] = [finding for finding in document["findings"] if finding["mark"] == "fail"]
    assert set(fault) == {"check", "mark", "seen", "who", "remedy", "peer"}
    assert (fault["check"], fault["peer"], fault["who"]) == ("peer.connection", "pacs", "administrator of pacs")


def test_a_bad_settings_file_is_a_failure_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[node]\nprt = 104\n")
    done = run(file, "--json")
    assert done.exit_code == 1
    [fault] = json.loads(done.stdout)["findings"]
    assert fault["seen"].endswith(":2: node.prt: unknown key; did you mean 'port'?")


def test_an_unknown_peer_is_a_fault_of_usage(tmp_path: Path) -> None:
    done = run(write(tmp_path, 104), "--peer", "pasc")
    assert done.exit_code == 2
    assert "did you mean 'pacs'?" in " ".join(re.sub("│", " ", done.stderr).split())


def test_the_page_is_what_the_checks_say() -> None:
    """To write it anew: make docs."""
    assert (ROOT / "docs" / "doctor.md").read_text() == page()


def test_every_check_of_the_table_is_made_and_no_other() -> None:
    sources = [path for path in (ROOT / "dicom_node/operate/doctor").glob("*.py") if path.stem != "findings"]
    groups = "|".join(GROUPS)
    made = {name for path in sources for name in re.findall(rf'"((?:{groups})\.[a-z_]+)"', path.read_text())}
    assert made - set(CHECKS) == set()
    assert set(CHECKS) - made == set()
    assert {check.partition(".")[0] for check in CHECKS} == set(GROUPS)


@pytest.mark.parametrize("group", list(GROUPS))
def test_the_page_has_a_table_for_each_group(group: str) -> None:
    text = page()
    assert f"## {GROUPS[group]}\n" in text
    assert all(f"| `{check}` |" in text for check in CHECKS if check.startswith(f"{group}."))
