"""Section ``[tls]``, TLS and limits of peers in node.toml: faults with their lines, paths, and what receivers are told.

The files themselves are looked at when they are used (`test_net_tls`, `test_receive_tls`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.net.tls import TlsCall, TlsFiles
from dicom_node.receive.plan import ReceiverPlan, TlsDoor
from dicom_node.receive.planning import receiver_plan
from dicom_node.settings import Peer, Role, Settings, SettingsError, parse_settings
from dicom_node.settings.template import plain

GOOD = """\
[tls]
port = 2762
certificate = "tls/node.pem"
key = "$CREDENTIALS_DIRECTORY/node.key"
ca = "tls/ca.pem"
[[peers]]
name = "pacs"
ae_titles = ["PACS", "PACS2"]
host = "10.0.0.1"
hosts = ["10.0.0.2", "10.1.0.0/16", "pacs.example"]
port = 2762
roles = ["source", "destination"]
tls = true
tls_name = "pacs.example"
tls_ca = "/etc/ssl/pacs.pem"
max_associations = 4
max_pdu_bytes = 16384
network_timeout_s = 20
association_timeout_s = 7
"""


def faults(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, file="f", base=Path("/etc/jmmda-node"))
    return [str(fault) for fault in caught.value.faults]


def test_every_key_reaches_whom_it_concerns() -> None:
    settings = parse_settings(GOOD, file="f", base=Path("/etc/jmmda-node"))
    certificate, key = "/etc/jmmda-node/tls/node.pem", "$CREDENTIALS_DIRECTORY/node.key"
    (peer,) = settings.peers
    assert peer.tls_call == TlsCall(TlsFiles(certificate, key, ("/etc/ssl/pacs.pem",)), "pacs.example")
    assert peer.association_timeout_s == 7.0
    assert peer.pdu_bytes == 16384

    plan = receiver_plan(settings)
    both = ("/etc/jmmda-node/tls/ca.pem", "/etc/ssl/pacs.pem")
    assert plan.tls == TlsDoor(2762, TlsFiles(certificate, key, both))
    assert not plan.tls_only
    (caller,) = plan.callers
    assert caller.origins == ("10.0.0.1", "10.0.0.2", "10.1.0.0/16", "pacs.example")
    assert (caller.needs_tls, caller.tls_name) == (True, "pacs.example")
    assert (caller.max_associations, caller.max_pdu_bytes, caller.network_timeout_s) == (4, 16384, 20.0)
    assert ReceiverPlan.from_line(plan.to_line()) == plan
    assert parse_settings(plain(settings), file="g", base=Path("/")) == settings


def test_a_peer_without_keys_of_its_own_has_those_of_the_sections() -> None:
    text = "[node]\nmax_pdu_bytes = 32768\nnetwork_timeout_s = 9\nacse_timeout_s = 8\nport = 2762\n" + "\n".join(
        line for line in GOOD.splitlines() if not line.startswith(("tls_", "max_", "network_", "association_"))
    ).replace("port = 2762\nroles", "port = 11112\nroles")
    settings = parse_settings(text, file="f", base=Path("/etc"))
    plan = receiver_plan(settings)
    assert (plan.max_pdu_bytes, plan.network_timeout_s, plan.acse_timeout_s) == (32768, 9.0, 8.0)
    assert plan.tls_only  # the one port speaks TLS
    assert settings.peers[0].pdu_bytes == 32768
    assert settings.peers[0].tls_call is not None
    assert settings.peers[0].tls_call.name == "10.0.0.1"
    assert plan.callers[0].tls_name == ""


def test_settings_without_tls_have_no_door_and_no_secrets() -> None:
    peer = Peer(name="a", ae_titles=("A",), host="h", port=1, roles=(Role.SOURCE, Role.DESTINATION))
    plan = receiver_plan(Settings(peers=(peer,)))
    assert peer.tls_call is None
    assert plan.tls is None
    assert not plan.callers[0].needs_tls


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('certificate = "tls/node.pem"\n', ""), "f:1: tls.certificate: required, because port is set"),
        (('ca = "tls/ca.pem"\n', "", 'tls_ca = "/etc/ssl/pacs.pem"\n', ""), "tls.ca: required, because require_client"),
        (
            ("port = 2762\ncertificate", "certificate"),
            "f:12: peers[0].tls: the peer could not call us: set port in [tls]",
        ),
        (("tls = true\n", ""), "peers[0].tls_name: has no effect without tls = true"),
        (("tls = true\n", ""), "peers[0].tls_ca: has no effect without tls = true"),
        (("10.1.0.0/16", "10.1.0.1/16"), "f:10: peers[0].hosts[1]: must be a host name, an IP address or a network"),
        (("10.1.0.0/16", "0.0.0.0/0"), "f:10: peers[0].hosts[1]: is every address there is"),
        (("10.1.0.0/16", "10.1.*.*"), "f:10: peers[0].hosts[1]: must be a host name or an IP address"),
        (
            ("max_pdu_bytes = 16384", "max_pdu_bytes = 100"),
            "peers[0].max_pdu_bytes: should be greater than or equal to 4096",
        ),
        (("max_associations = 4", "max_associations = 0"), "peers[0].max_associations: should be greater than"),
        (("tls_name", "tls_nme"), "f:14: peers[0].tls_nme: unknown key"),
        (("certificate", "certificates"), "f:3: tls.certificates: unknown key; did you mean 'certificate'?"),
        (('host = "10.0.0.1"', 'host = "127.0.0.1"'), "this node itself: results would go in a loop"),
    ],
)
def test_each_fault_is_named_with_its_line(change: tuple[str, ...], expected: str) -> None:
    text = GOOD
    for old, new in zip(change[::2], change[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    assert any(expected in fault for fault in faults(text)), faults(text)


def test_two_peers_may_not_share_a_title_and_an_address() -> None:
    other = '[[peers]]\nname = "b"\nae_titles = ["PACS2"]\nhost = "{}"\nroles = ["source"]\n'
    for host in ("10.0.0.1", "10.0.0.2", "10.1.2.3", "pacs.example"):
        (fault,) = faults(GOOD + other.format(host))
        assert f"'PACS2' at {host} already belongs to peer 'pacs'" in fault
    settings = parse_settings(GOOD + other.format("10.2.0.1"), file="f", base=Path("/"))
    for address, name in (("10.2.0.1", "b"), ("10.1.200.3", "pacs"), ("10.0.0.2", "pacs")):
        peer = settings.peer_of("PACS2", address)
        assert peer is not None
        assert peer.name == name
