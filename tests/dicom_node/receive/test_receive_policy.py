"""Who may call: a table of titles and addresses, with what the log says about each refusal.

Covers the policy alone, with a name server made of a dictionary. That a refusal reaches the peer and the log is shown
in `test_receive_process`.
"""

from __future__ import annotations

import dataclasses

import pytest

from dicom_node.errors import Permanent
from dicom_node.receive.plan import Caller, ReceiverPlan
from dicom_node.receive.planning import receiver_plan
from dicom_node.receive.policy import Policy, Rejection, SecureChannel, normalised, resolve
from dicom_node.settings import NodeSettings, Peer, Role, Settings, WorkersSettings

NAMES = {"pacs.example": {"10.0.0.1", "10.0.0.11"}, "lost.example": set(), "10.0.0.2": {"10.0.0.2"}}
PLAN = ReceiverPlan(
    ae_title="JMMDA_NODE",
    host="0.0.0.0",
    port=11112,
    data_dir="/data",
    callers=(
        Caller("pacs", ("PACS", "PACS_STORE"), "pacs.example"),
        Caller("ct", ("CT1",), "10.0.0.2"),
        Caller("viewer", ("VIEWER",), "10.0.0.2", may_store=False),
        Caller("roaming", ("ROAM",), "nowhere.example", any_host=True),
        Caller("lost", ("LOST",), "lost.example"),
        Caller("twin", ("CT1",), "10.0.0.3"),
        Caller("cluster", ("VNA", "VNA2"), "10.3.0.1", further_hosts=("10.4.0.0/24", "pacs.example", "2001:db8::/64")),
        Caller("secure", ("SAFE",), "10.5.0.1", needs_tls=True),
        Caller("named", ("NAMED",), "10.5.0.2", needs_tls=True, tls_name="ct1.example"),
    ),
)


def resolver(host: str) -> frozenset[str]:
    return frozenset(NAMES.get(host, {host}))


POLICY = Policy(PLAN, resolver)


@pytest.mark.parametrize(
    ("calling", "address", "may_store"),
    [
        ("PACS", "10.0.0.1", True),
        ("PACS", "10.0.0.11", True),  # a second address of the same name
        (" PACS_STORE ", "10.0.0.1", True),  # spaces do not matter
        ("PACS", "::ffff:10.0.0.1", True),  # IPv4 on an IPv6 socket
        ("CT1", "10.0.0.2", True),
        ("CT1", "10.0.0.3", True),  # the same title at another peer
        ("VIEWER", "10.0.0.2", False),
        ("ROAM", "203.0.113.9", True),
        ("VNA", "10.3.0.1", True),
        ("VNA2", "10.4.0.200", True),  # in a network of the peer
        ("VNA", "10.0.0.11", True),  # a further name
        ("VNA", "2001:db8::7", True),
        ("VNA", "::ffff:10.4.0.9", True),
    ],
)
def test_known_callers_are_admitted(calling: str, address: str, may_store: bool) -> None:
    admission = POLICY.admit(calling, "JMMDA_NODE ", address)
    assert admission.rejection is None
    assert admission.may_store is may_store


@pytest.mark.parametrize(
    ("calling", "called", "address", "rejection", "words"),
    [
        ("PACS", "JMMDA", "10.0.0.1", Rejection.CALLED_AE_NOT_RECOGNIZED, ["'JMMDA'", "'JMMDA_NODE'"]),
        ("PACS", "jmmda_node", "10.0.0.1", Rejection.CALLED_AE_NOT_RECOGNIZED, ["'jmmda_node'", "'JMMDA_NODE'"]),
        (
            "PACS",
            "JMMDA_NODE",
            "10.0.0.9",
            Rejection.CALLING_AE_NOT_RECOGNIZED,
            ["'PACS'", "10.0.0.9", "pacs.example (10.0.0.1, 10.0.0.11)"],
        ),
        ("CT1", "JMMDA_NODE", "10.0.0.9", Rejection.CALLING_AE_NOT_RECOGNIZED, ["10.0.0.2 and 10.0.0.3"]),
        ("LOST", "JMMDA_NODE", "10.0.0.9", Rejection.CALLING_AE_NOT_RECOGNIZED, ["does not resolve"]),
        (
            "pacs",
            "JMMDA_NODE",
            "10.0.0.1",
            Rejection.CALLING_AE_NOT_RECOGNIZED,
            ["'pacs'", "'PACS', 'PACS_STORE'", "case matters"],
        ),
        ("STRANGER", "JMMDA_NODE", "10.9.9.9", Rejection.CALLING_AE_NOT_RECOGNIZED, ["[[peers]]"]),
        (
            "VNA",
            "JMMDA_NODE",
            "10.4.1.1",
            Rejection.CALLING_AE_NOT_RECOGNIZED,
            ["10.4.1.1", "10.3.0.1 and 10.4.0.0/24 and pacs.example (10.0.0.1, 10.0.0.11) and 2001:db8::/64"],
        ),
        ("VNA", "JMMDA_NODE", "2001:db8:0:1::7", Rejection.CALLING_AE_NOT_RECOGNIZED, ["2001:db8:0:1::7"]),
        ("OTHER", "JMMDA_NODE", "10.4.0.7", Rejection.CALLING_AE_NOT_RECOGNIZED, ["'OTHER'", "'VNA', 'VNA2'"]),
        ("V*", "JMMDA_NODE", "10.4.0.7", Rejection.CALLING_AE_NOT_RECOGNIZED, ["'V*'"]),
    ],
)
def test_others_are_refused_with_both_values_named(
    calling: str, called: str, address: str, rejection: Rejection, words: list[str]
) -> None:
    admission = POLICY.admit(calling, called, address)
    assert admission.rejection is rejection
    for word in words:
        assert word in admission.reason


def test_anyone_may_call_when_the_plan_says_so_but_not_by_a_wrong_name() -> None:
    policy = Policy(dataclasses.replace(PLAN, accept_any_calling_ae=True), resolver)
    assert policy.admit("STRANGER", "JMMDA_NODE", "10.9.9.9").may_store
    assert policy.admit("STRANGER", "OTHER", "10.9.9.9").rejection is Rejection.CALLED_AE_NOT_RECOGNIZED
    assert not policy.admit("VIEWER", "JMMDA_NODE", "10.0.0.2").may_store


def test_tls_and_its_certificate_decide_where_a_peer_asks_for_them() -> None:
    def certificate(*names: str) -> SecureChannel:
        return SecureChannel({"subjectAltName": tuple(("DNS", name) for name in names)})

    for calling, address, secure, code in (
        ("SAFE", "10.5.0.1", None, "tls_required"),
        ("SAFE", "10.5.0.1", certificate(), ""),
        ("SAFE", "10.5.0.1", certificate("any.example"), ""),
        ("SAFE", "10.5.0.9", certificate("any.example"), "calling_host"),
        ("NAMED", "10.5.0.2", None, "tls_required"),
        ("NAMED", "10.5.0.2", SecureChannel(None), "tls_name"),
        ("NAMED", "10.5.0.2", certificate("ct2.example"), "tls_name"),
        ("NAMED", "10.5.0.2", certificate("ct2.example", "CT1.example"), ""),
        ("PACS", "10.0.0.1", certificate("any.example"), ""),  # more than was asked for
    ):
        admission = POLICY.admit(calling, "JMMDA_NODE", address, secure)
        assert admission.code == code, (calling, secure)
        assert (admission.rejection is None) is (code == "")
        assert admission.caller is None or calling in admission.caller.ae_titles
    shown = POLICY.admit("NAMED", "JMMDA_NODE", "10.5.0.2", certificate("ct2.example")).reason
    assert "'ct2.example'" in shown
    assert "'ct1.example'" in shown


def test_addresses_are_remembered_but_a_failure_is_not() -> None:
    asked: list[str] = []
    known: set[str] = set()

    def server(host: str) -> frozenset[str]:
        asked.append(host)
        return frozenset(known)

    plan = dataclasses.replace(PLAN, callers=(Caller("pacs", ("PACS",), "pacs.example"),))
    policy = Policy(plan, server)
    assert policy.admit("PACS", "JMMDA_NODE", "10.0.0.1").rejection is not None
    known.add("10.0.0.1")
    before = len(asked)
    for _ in range(5):
        assert policy.admit("PACS", "JMMDA_NODE", "10.0.0.1").rejection is None
    assert len(asked) == before + 1


def test_addresses_are_written_one_way() -> None:
    assert normalised("::ffff:127.0.0.1") == "127.0.0.1"
    assert normalised("fe80::1%eth0") == "fe80::1"
    assert normalised("0:0:0:0:0:0:0:1") == "::1"
    assert "127.0.0.1" in resolve("localhost")
    assert resolve("no-such-host.invalid") == frozenset()


def test_a_plan_survives_its_line() -> None:
    assert ReceiverPlan.from_line(PLAN.to_line()) == PLAN
    assert PLAN.to_line().count("\n") == 1
    for bad in ("", "{}", "[]", "nonsense", '{"ae_title":"X","host":"h","port":1,"data_dir":"/","extra":1}'):
        with pytest.raises(Permanent, match="not a receiver plan"):
            ReceiverPlan.from_line(bad)


def test_the_plan_follows_the_settings() -> None:
    settings = Settings(
        node=NodeSettings(ae_title="X", port=104),
        peers=(
            Peer(name="a", ae_titles=("A",), host="h", roles=(Role.SOURCE,), any_host=True),
            Peer(name="b", ae_titles=("B",), host="i", port=1, roles=(Role.DESTINATION, Role.COMMITMENT)),
        ),
        workers=WorkersSettings(receivers=2),
    )
    plan = receiver_plan(settings)
    assert (plan.ae_title, plan.port, plan.share_port) == ("X", 104, True)
    assert plan.min_free_bytes == 512 * 1024**2
    assert plan.callers == (
        Caller("a", ("A",), "h", True, True, may_report=False, has_port=False),
        Caller("b", ("B",), "i", False, False, may_report=True, has_port=True),
    )
    assert plan.report_wait_s == 5.0
