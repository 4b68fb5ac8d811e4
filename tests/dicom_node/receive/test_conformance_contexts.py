"""What docs/conformance.md lists as accepted is what a real receiver negotiates, and nothing else is.

Every SOP class and transfer syntax that pydicom knows is proposed. Left out: what is proposed by us (`test_sender` and
the tests of each verb), and contexts for peers without a role (`test_net_contexts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydicom.uid import UID_dictionary
from pynetdicom import AE, build_context

from dicom_node.derive.conformance_page import render
from tests.dicom_node.receive.receiver_process import ReceiverProcess

PAGE = render().split("## What is accepted")[1].split("\n## ")[0]
SYNTAXES = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
#: Some classes are newer than the dictionary.
LISTED = set(re.findall(r"`([0-9.]+)`", PAGE)) - SYNTAXES
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    with ReceiverProcess(tmp_path_factory.mktemp("receiver") / "data") as running:
        yield running


def _accepted(receiver: ReceiverProcess, proposals: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Class and transfer syntax of each context that the receiver accepts."""
    found = set()
    for begin in range(0, len(proposals), 128):
        part = proposals[begin : begin + 128]
        contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in part]
        association = AE("PACS").associate("127.0.0.1", receiver.port, contexts=contexts, ae_title="JMMDA_NODE")
        assert association.is_established
        found |= {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts}
        association.release()
    return found


def test_every_listed_sop_class_is_accepted_and_no_other_that_the_standard_knows(receiver: ReceiverProcess):
    known = LISTED | {uid for uid, entry in UID_dictionary.items() if "SOP Class" in entry[1]}
    accepted = _accepted(receiver, [(uid, "1.2.840.10008.1.2.1") for uid in sorted(known)])
    assert {sop_class for sop_class, _ in accepted} == LISTED
    assert len(LISTED) > 100


@pytest.mark.parametrize("sop_class", [CT, MR])
def test_the_listed_transfer_syntaxes_are_accepted_and_no_others(receiver: ReceiverProcess, sop_class: str):
    both, beyond = PAGE.split("Transfer syntaxes for them:")[1].split("also:")
    listed = set(re.findall(r"^- .*`([0-9.]+)`", both, re.M))
    if sop_class != CT:
        listed |= set(re.findall(r"^- .*`([0-9.]+)`", beyond, re.M))
    accepted = _accepted(receiver, [(sop_class, syntax) for syntax in sorted(SYNTAXES)])
    assert {syntax for _, syntax in accepted} == listed
