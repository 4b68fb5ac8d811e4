"""A running node leaves its audit trail: start, refusal, transfer, change of configuration, stop, and no patient.

Left out: deliveries (`operate/test_transfers`), syslog (`operate/test_audit`).
"""

from __future__ import annotations

import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dicom_node.errors import NodeError
from dicom_node.net.scu import echo
from tests.dicom_node.node_cases import encoded, head_stack
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node, send


def _events(node: Node) -> list[tuple[str, str, str]]:
    """Code of the event, or of its type where it has one; outcome; reason."""
    path = node.paths.data_dir / "audit.xml"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        head = ElementTree.fromstring(line)[0]
        code = head.find("EventTypeCode")
        code = head.find("EventID") if code is None else code
        assert code is not None
        reason = head.findtext("EventOutcomeDescription") or ""
        found.append((code.get("originalText", ""), head.get("EventOutcomeIndicator", ""), reason))
    return found


def _changes(node: Node) -> list[tuple[str, str]]:
    return [one[1:] for one in _events(node) if one[0] == "Software Configuration"]


@pytest.mark.timeout(120)
def test_a_day_in_the_life(tmp_path: Path):
    node = make_node(tmp_path / "node", Pacs(), tmp_path / "no-such-bundle")
    plain = node.config.read_text()
    node.config.write_text(plain + '\n[audit]\nto = "file"\n')
    paths = []
    for number, ds in enumerate(head_stack(3)):
        ds.PatientName, ds.PatientID = "GEHEIM^NAME", "SECRET-4711"
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(encoded(ds))
    with node.running():
        node.wait_for(lambda: ("Application Start", "0", "") in _events(node), "start")
        with pytest.raises(NodeError):
            echo(node.remote, "STRANGER", timeout_s=5.0)
        node.wait_for(lambda: any(one[0] == "Node Authentication" for one in _events(node)), "refusal")
        send(node, paths)
        node.wait_for(lambda: any(one[0] == "DICOM Instances Transferred" for one in _events(node)), "transfer")
        assert node.process is not None
        fewer_tries = node.config.read_text().replace("attempts = 20", "attempts = 7")
        for number, text in enumerate((fewer_tries, "nonsense ="), start=1):
            node.config.write_text(text)
            node.process.send_signal(signal.SIGHUP)
            node.wait_for(lambda: len(_changes(node)) == number, "change of configuration")  # noqa: B023
    events = _events(node)
    (refused,) = [one for one in events if one[0] == "Node Authentication"]
    assert refused[1] == "4"
    assert "'STRANGER'" in refused[2]
    assert ("Begin Transferring DICOM Instances", "0", "") in events
    assert _changes(node) == [("0", "sections changed: delivery"), ("4", "settings not taken: 1 faults")]
    assert events[-1] == ("Application Stop", "0", "")
    text = (node.paths.data_dir / "audit.xml").read_text()
    assert PACS_AE in text
    assert head_stack(1)[0].StudyInstanceUID in text
    assert 'NumberOfInstances="3"' in text
    assert "GEHEIM" not in text
    assert "SECRET" not in text
