"""The service's end of the worker against a scripted child process: every outcome, and every way to end badly.

Left out: the real worker (`test_worker`), and what the stage does with each outcome (`test_stages`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.errors import Permanent, Refused, Transient
from dicom_node.synthesize.client import WorkerClient, worker_command

SCRIPT = Path(__file__).with_name("scripted_worker.py")


def _client(
    start: str = "well", *, time_limit_s: float = 20.0, silence_limit_s: float = 10.0, start_limit_s: float = 20.0
):
    return WorkerClient(
        (sys.executable, str(SCRIPT), start),
        time_limit_s=time_limit_s,
        silence_limit_s=silence_limit_s,
        start_limit_s=start_limit_s,
    )


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    made = _client()
    made.start()
    yield made
    made.stop()


def _run(client: WorkerClient, job: str, tmp_path: Path):
    seen: list[tuple[str, int, int]] = []
    done = client.run(job, [tmp_path / "a", tmp_path / "b"], tmp_path, lambda *step: seen.append(step))
    return done, seen


def test_ready_job_and_end(client: WorkerClient, tmp_path: Path):
    assert client.ready is not None
    assert client.ready.bundle["name"] == "scripted"
    done, seen = _run(client, "good", tmp_path)
    assert done.seconds == {"network": 0.1}
    assert seen == [("read", 1, 2)]
    assert client.alive
    client.stop()
    assert not client.alive


def test_noise_and_news_of_other_jobs_are_passed_over(client: WorkerClient, tmp_path: Path):
    done, _ = _run(client, "noise", tmp_path)
    assert done.seconds == {"network": 1.5}
    assert done.quality_flags == ("volume",)


@pytest.mark.parametrize(
    ("job", "kind", "code"),
    [
        ("refuse", Refused, "no_brain"),
        ("permanent", Permanent, "pixel_data"),
        ("passing", Transient, "internal"),
    ],
)
def test_a_job_that_does_not_succeed_leaves_the_worker_well(client: WorkerClient, tmp_path: Path, job, kind, code):
    with pytest.raises(kind) as caught:
        _run(client, job, tmp_path)
    assert caught.value.code == code
    _run(client, "good", tmp_path)


@pytest.mark.parametrize("job", ["out-of-memory", "killed", "crash"])
def test_a_worker_that_dies_costs_an_attempt_and_can_be_started_again(client: WorkerClient, tmp_path: Path, job: str):
    with pytest.raises(Transient) as caught:
        _run(client, job, tmp_path)
    assert caught.value.code == "worker_died"
    assert ("memory" in caught.value.reason) == (job != "crash")
    assert not client.alive
    client.start()
    _run(client, "good", tmp_path)


def test_a_worker_that_says_nothing_is_stopped(tmp_path: Path):
    client = _client(silence_limit_s=0.3)
    pid = client.start().pid
    with pytest.raises(Transient) as caught:
        _run(client, "hang", tmp_path)
    assert caught.value.code == "worker_silent"
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_works_for_ever_meets_the_time_limit(tmp_path: Path):
    client = _client(time_limit_s=20.0)
    pid = client.start().pid
    client.time_limit_s = 0.5  # as a reload sets it, for the next job
    with pytest.raises(Transient) as caught:
        _run(client, "endless", tmp_path)
    assert caught.value.code == "worker_timeout"
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("start", "kind", "code"),
    [
        ("refuse-start", Permanent, "bundle_hash"),
        ("die-at-start", Transient, "worker_died"),
        ("silent-start", Transient, "worker_silent"),
    ],
)
def test_a_worker_that_does_not_start_says_why(start: str, kind, code: str):
    client = _client(start, start_limit_s=0.5 if start == "silent-start" else 20.0)
    with pytest.raises(kind) as caught:
        client.start()
    assert caught.value.code == code
    assert not client.alive


def test_stopping_from_another_thread_ends_a_job_under_way(client: WorkerClient, tmp_path: Path):
    caught: list[Exception] = []

    def work() -> None:
        try:
            _run(client, "hang", tmp_path)
        except Transient as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    client.stop()
    thread.join(10)
    assert [error.code for error in caught] == ["worker_stopped"]


def test_the_command_of_the_real_worker():
    command = worker_command(bundle="b", device="cpu", precision="auto", threads=2)
    assert command[1:] == ("-m", "dicom_node.synthesize", "--bundle", "b", "--device", "cpu", "--precision", "auto",
                           "--threads", "2")  # fmt: skip
    assert "--threads" not in worker_command(bundle="b", device="cpu", precision="auto", threads=None)
