"""Pixels that cannot be used end the job, not the worker: through the real worker process with a tiny network.

Left out: a worker that crashes, hangs or runs out of memory (`synthesize/test_client`, `test_stages`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.ledger.states import State
from dicom_node.net.scu import EncodedInstance
from tests.dicom_node.bad_input.bad_node import BadNode, running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.pixel_cases import UNDECODABLE


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[BadNode]:
    model = {"bundle": str(tiny_bundle), "device": "cpu", "threads": 1}
    with running(tmp_path_factory.mktemp("working"), model=model) as made, made.worker():
        yield made


@pytest.mark.parametrize("arrives", UNDECODABLE.cases)
def test_the_job_ends_as_documented_and_the_worker_lives(working: BadNode, arrives: str) -> None:
    before = working.worker_pid
    hold(UNDECODABLE.cases[arrives], working, with_good=False)
    assert working.worker_pid == before


def test_a_head_is_synthesized_after_all_of_that(working: BadNode, phantom_ct: Path) -> None:
    working.begin("a head")
    working.send([EncodedInstance.read(path) for path in sorted(phantom_ct.glob("*.dcm"))])
    working.settle()
    working.work()
    assert working.heard == {"0x0000"}
    job = working.newest_job()
    assert (job.state, job.synthesized_at is not None) == (State.SYNTHESIZING, True)
