"""Storage commitment through a running node whose service is killed between the report on disk and the ledger.

The receiver takes and acknowledges the report while the service stands still; then that is killed and started again by
the supervisor. Left out: what else a report may be (`deliver/test_commitment*`), Orthanc (`tests/peers`).
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from dicom_node.demo.throwaway import ThrowawaySettings
from dicom_node.net.remote import Remote
from tests.dicom_node.deliver.commitment_cases import Destination, report_dataset
from tests.dicom_node.running_node import PACS_AE, Node, send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_report_that_was_acknowledged_survives_the_death_of_the_service(
    tmp_path: Path, tiny_bundle: Path, phantom_ct: Path
) -> None:
    pacs = Destination(PACS_AE)
    with pacs.listening() as port:
        peer = Remote("minipacs", PACS_AE, "127.0.0.1", port)
        settings = ThrowawaySettings(
            (peer,), bundle=str(tiny_bundle), device="cpu", settle_s=0.3, quiet_s=2.0, study_quiet_s=0.3,
            commitment=True,
        )  # fmt: skip
        node = Node(tmp_path / "node", settings)
        pacs.node_port = node.port
        with node.running():
            send(node, sorted(phantom_ct.rglob("*.dcm")))
            node.wait_for(lambda: pacs.requests, "the request for storage commitment")
            service = json.loads((node.paths.run / "state.json").read_bytes())["pid"]
            os.kill(service, signal.SIGSTOP)
            assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
            assert len(list((node.paths.data_dir / "commitment").glob("*.report.json"))) == 1
            assert node.states() == ["DELIVERED"]
            os.kill(service, signal.SIGKILL)
            node.wait_for(lambda: node.states() == ["COMMITTED"], "COMMITTED")
            node.wait_for(lambda: not list((node.paths.data_dir / "commitment").iterdir()), "the end of its file")
        node.lose_ledger()
        with node.running():
            node.wait_for(lambda: node.states() == ["COMMITTED"], "COMMITTED after the ledger was rebuilt")
    assert len(set(pacs.stored)) == len(pacs.stored)
