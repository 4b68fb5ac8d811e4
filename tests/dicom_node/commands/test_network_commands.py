"""`jmmda-node echo` and `send`: exit codes and what they print, over real associations.

Covers both commands through Typer's runner, with a pynetdicom peer. The verbs are tested in `test_net_scu`, the sending
of a series in `test_sender`.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from pynetdicom import evt
from typer.testing import CliRunner

from dicom_node.commands import network
from tests.dicom_node.net.associations import storage_scp, write_series
from tests.dicom_node.net.tls_cases import Authority, careless_server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JMMDA_NODE_CONFIG", raising=False)


def run(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode="rich")
    network.register(app)
    return CliRunner().invoke(app, list(arguments))


def settings(port: int) -> None:
    Path("node.toml").write_text(
        f'[node]\nae_title = "MY_NODE"\n[[peers]]\nname = "pacs"\nae_titles = ["PACS"]\nhost = "127.0.0.1"\n'
        f'port = {port}\nroles = ["destination"]\n'
    )


def take(event: evt.Event) -> int:
    return 0


def test_echo_of_a_peer_by_name() -> None:
    with storage_scp(take, calling="MY_NODE") as peer:
        settings(peer.port or 0)
        done = run("echo", "pacs")
        assert done.exit_code == 0, done.output
        assert "pacs (PACS at 127.0.0.1" in done.stdout
        assert "answered MY_NODE" in done.stdout
        document = json.loads(run("echo", "pacs", "--json").stdout)
    assert document["ok"] is True
    assert document["round_trip_s"] > 0


def test_echo_of_a_peer_that_is_written_out() -> None:
    with storage_scp(take, calling="SOMEONE") as peer:
        where = f"PACS@127.0.0.1:{peer.port}"
        assert run("echo", where, "--calling-ae", "SOMEONE").exit_code == 0
        refused = run("echo", where, "--calling-ae", "ANOTHER")
    assert refused.exit_code == 3
    assert "ask the PACS administrator to add it" in refused.stderr


def test_echo_of_nobody(free_port: int) -> None:
    settings(free_port)
    done = run("echo", "pacs", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["code"] == "peer_unreachable"
    assert f"peer unreachable 127.0.0.1:{free_port}" in run("echo", "pacs").stderr


def test_a_peer_that_is_not_in_the_settings_is_a_usage_error() -> None:
    settings(104)
    done = run("echo", "pcas")
    assert done.exit_code == 2
    assert "did you mean 'pacs'" in " ".join(done.output.replace("│", " ").split())


def test_send_files_and_folders(tmp_path: Path) -> None:
    write_series(tmp_path / "ct" / "deep", 3)
    (tmp_path / "ct" / "notes.txt").write_text("not DICOM")
    arrived = []
    with storage_scp(lambda event: arrived.append(event.request.AffectedSOPInstanceUID) or 0) as peer:
        settings(peer.port or 0)
        done = run("send", "pacs", "ct", "ct/deep/0001.dcm")
    assert done.exit_code == 0, done.output
    assert "4 of 4 stored" in done.stdout
    assert "1 files skipped: not DICOM" in done.stderr
    assert len(arrived) == 4


def test_send_reports_every_status(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", 4)
    answers = iter([0x0000, 0xC000, 0xB000, 0xA700])
    with storage_scp(lambda event: next(answers)) as peer:
        settings(peer.port or 0)
        done = run("send", "pacs", "ct", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert [one["status"] for one in document["instances"]] == ["0x0000", "0xC000", "0xB000", "0xA700"]
    assert (document["stored"], document["failed"], document["to_retry"]) == (2, 1, 1)


def test_send_that_is_refused_for_good_is_exit_code_3(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", 2)
    with storage_scp(lambda event: 0xA900) as peer:
        settings(peer.port or 0)
        done = run("send", "pacs", "ct")
    assert done.exit_code == 3
    assert "0 of 2 stored" in done.stdout
    assert "0xA900" in done.stderr


def test_send_to_nobody(tmp_path: Path, free_port: int) -> None:
    write_series(tmp_path / "ct", 2)
    settings(free_port)
    done = run("send", "pacs", "ct")
    assert done.exit_code == 1
    assert "peer_unreachable" in done.stderr


def test_send_without_anything_to_send_is_a_usage_error(tmp_path: Path) -> None:
    settings(104)
    (tmp_path / "empty").mkdir()
    assert run("send", "pacs", "empty").exit_code == 2
    assert run("send", "pacs", "absent").exit_code == 2


@pytest.mark.parametrize("command", ["echo", "send"])
def test_every_help_has_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"jmmda-node {command} pacs" in done.stdout


def test_neither_loads_torch_or_the_ledger() -> None:
    script = (
        "import sys; import dicom_node.commands.network, dicom_node.commands.config, dicom_node.net.scu, "
        "dicom_node.deliver.sender; print(sorted({'torch', 'sqlalchemy', 'highdicom', 'SimpleITK'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_echo_and_send_by_tls(tmp_path: Path) -> None:
    """A peer with tls = true, somebody written out with --tls, and what it says when a side refuses the other."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    node, pacs, stranger = ours.issue("node"), ours.issue("pacs"), theirs.issue("stranger")
    mutual = careless_server(pacs, ours.certificate, most=ssl.TLSVersion.TLSv1_3)
    with storage_scp(take, calling="MY_NODE", ssl_context=mutual) as peer:
        settings(peer.port or 0)
        plain = Path("node.toml").read_text()
        assert run("echo", f"PACS@127.0.0.1:{peer.port}", "--tls").exit_code == 2
        for who, code in ((node, 0), (stranger, 3)):
            files = f'certificate = "{who.certificate}"\nkey = "{who.key}"\nca = "{ours.certificate}"\n'
            Path("node.toml").write_text(f"{plain}tls = true\n[tls]\n{files}")
            for whom in (["pacs"], [f"PACS@127.0.0.1:{peer.port}", "--tls"]):
                done = run("echo", *whom)
                assert done.exit_code == code, done.output
                assert ("does not know the authority of our certificate" in done.output) is (code == 3)
            (path,) = write_series(tmp_path / "ct", 1)
            assert run("send", "pacs", str(path)).exit_code == code
        stranger.key.unlink()
        done = run("echo", "pacs")
        assert done.exit_code == 1
        assert f"tls_files: {stranger.key} cannot be read" in done.output
