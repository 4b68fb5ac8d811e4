"""The doctor and TLS: certificates by their dates and keys, a secure peer, and our own secure door.

Certificates are made by openssl. What goes wrong in a handshake is tested in `test_net_tls` and `test_receive_tls`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.demo.throwaway import free_port
from dicom_node.errors import NodeError
from dicom_node.net.scu import echo
from dicom_node.operate.doctor import back
from dicom_node.operate.doctor.certificates import certificates
from dicom_node.operate.doctor.findings import US, Finding, Mark
from dicom_node.operate.doctor.peers import call
from dicom_node.receive.planning import receiver_plan
from dicom_node.settings import Settings, parse_settings
from tests.dicom_node.net.tls_cases import Authority, Identity
from tests.dicom_node.operate.doctor_cases import one, scp, sound
from tests.dicom_node.receive.receiver_process import ReceiverProcess


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


def settings_of(folder: Path, ours: Identity, ca: Path, *, port: int = 104, more: str = "") -> Settings:
    text = (
        f'[node]\nhost = "127.0.0.1"\ndata_dir = "{folder}"\n[tls]\nport = 2762\ncertificate = "{ours.certificate}"\n'
        f'key = "{ours.key}"\nca = "{ca}"\n{more}\n[[peers]]\nname = "pacs"\nae_titles = ["PACS"]\n'
        f'host = "127.0.0.1"\nport = {port}\ntls = true\nroles = ["source", "destination"]\n'
    )
    return parse_settings(text, file="node.toml", base=folder)


def of_certificates(settings: Settings) -> list[Finding]:
    found = certificates(settings)
    sound(found)
    return found


def test_without_tls_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    [finding] = of_certificates(Settings())
    assert finding.mark is Mark.PASS


def test_certificates_in_order(tmp_path: Path, authority: Authority) -> None:
    ours = authority.issue("node", ends_in=timedelta(days=60))
    found = of_certificates(settings_of(tmp_path, ours, authority.certificate, more="warn_days = 20"))
    assert [finding.mark for finding in found] == [Mark.PASS, Mark.PASS]
    assert "(60 days)" in found[0].seen
    assert "localhost" in found[0].seen


@pytest.mark.parametrize(
    ("starts_in", "ends_in", "mark", "words"),
    [
        (timedelta(days=-9), timedelta(days=-1), Mark.FAIL, "has expired"),
        (timedelta(days=2), timedelta(days=9), Mark.FAIL, "not valid before"),
        (timedelta(days=-9), timedelta(days=9), Mark.WARN, "(9 days)"),
    ],
)
def test_a_certificate_by_its_dates(
    tmp_path: Path, authority: Authority, starts_in: timedelta, ends_in: timedelta, mark: Mark, words: str
) -> None:
    ours = authority.issue(f"dated-{ends_in.days}-{starts_in.days}", starts_in=starts_in, ends_in=ends_in)
    finding = of_certificates(settings_of(tmp_path, ours, authority.certificate))[0]
    assert (finding.mark, finding.who) == (mark, US)
    assert words in finding.seen


def test_a_key_of_another_certificate_and_files_that_are_none(tmp_path: Path, authority: Authority) -> None:
    one_, other = authority.issue("one"), authority.issue("other")
    mixed = Identity(one_.certificate, other.key)
    assert "does not belong to" in of_certificates(settings_of(tmp_path, mixed, authority.certificate))[0].seen
    missing = Identity(tmp_path / "absent.pem", one_.key)
    assert "cannot be read" in of_certificates(settings_of(tmp_path, missing, authority.certificate))[0].seen
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    faults = of_certificates(settings_of(tmp_path, one_, text))
    assert [finding.mark for finding in faults][1:] == [Mark.FAIL]


def test_our_own_secure_door(tmp_path: Path, authority: Authority) -> None:
    ours = authority.issue("door")
    settings = settings_of(tmp_path, ours, authority.certificate)
    plan = receiver_plan(settings)
    assert plan.tls is not None
    door = replace(plan.tls, port=free_port())
    with ReceiverProcess(tmp_path / "data", callers=plan.callers, tls=door) as receiver:
        tls = settings.tls.model_copy(update={"port": receiver.tls_port})
        settings = settings.model_copy(update={"tls": tls})
        answered = back.door(settings, "127.0.0.1", 5.0)
        reachable, at = back.address(settings.peers[0], settings)
    gone = back.door(settings, "127.0.0.1", 2.0)
    assert answered.mark is Mark.PASS, answered
    assert f":{receiver.tls_port} by TLS answered the C-ECHO of 'PACS'" in answered.seen
    assert (at, str(receiver.tls_port) in reachable.seen) == ("127.0.0.1", True)
    assert gone.mark is Mark.FAIL


def test_a_peer_that_speaks_no_tls(tmp_path: Path, authority: Authority) -> None:
    ours = authority.issue("caller")
    with scp() as port:
        settings = settings_of(tmp_path, ours, authority.certificate, port=port)
        found = call(settings.peers[0], settings, 3.0).findings
    sound(found)
    fault = one(found, "peer.association")
    assert fault.mark is Mark.FAIL
    assert "administrator of pacs" in fault.who
    assert "TLS" in fault.seen


def test_who_was_turned_away_is_told_with_both_values(tmp_path: Path) -> None:
    settings = parse_settings(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', file="node.toml", base=tmp_path)
    assert not (tmp_path / "data").exists()
    with ReceiverProcess(tmp_path / "data") as receiver:
        assert back.refused(settings, 7.0).mark is Mark.PASS
        with pytest.raises(NodeError):
            echo(replace(receiver.remote, called_ae_title="X"), "PACS")
        finding = back.refused(settings, 7.0)
    assert finding.mark is Mark.WARN
    assert "'X'" in finding.seen
    assert "'JMMDA_NODE'" in finding.seen
