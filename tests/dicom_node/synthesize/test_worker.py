"""The worker process over its real pipe: ready, progress, done, refused, failed, and its end with its service.

Left out: what the service does with these answers (`test_client`), and CUDA devices.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import pixel_digest
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import read_header
from dicom_node.ledger.result_file import read_result
from tests.dicom_node.dicom.builders import write
from tests.dicom_node.dicom.enhanced_cases import enhanced_ct


class Worker:
    """A worker under test."""

    def __init__(self, bundle: Path) -> None:
        command = [sys.executable, "-m", "dicom_node.synthesize", "--bundle", str(bundle), "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--threads", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker said nothing more"
        return json.loads(line)

    def do(self, **request: object) -> list[dict[str, Any]]:
        """Send a job and return its events up to the outcome."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        events = [self.next()]
        while events[-1]["event"] == "progress":
            events.append(self.next())
        return events


@pytest.fixture(scope="module")
def worker(tiny_bundle: Path) -> Iterator[Worker]:
    started = Worker(tiny_bundle)
    ready = started.next()
    assert ready["event"] == "ready"
    assert ready["bundle"]["trained"] is False
    yield started
    started.process.stdin.close()
    started.process.wait(20)
    for stream in (started.process.stdout, started.process.stderr):
        stream.close()


def _in_order(folder: Path) -> list[str]:
    headers = [read_header(path) for path in folder.glob("*.dcm")]
    outcome = check_stack(headers, GeometrySettings(), pixel_digest=pixel_digest)
    return [str(header.path) for header in outcome.headers]


def test_the_kernel_takes_the_worker_first_when_memory_ends(worker: Worker) -> None:
    assert Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text().strip() == "1000"


def test_a_job_leaves_a_result_on_the_grid_of_its_ct(worker: Worker, phantom_ct: Path, tmp_path: Path) -> None:
    files = _in_order(phantom_ct)
    events = worker.do(job="one", files=files, out=str(tmp_path))
    assert events[-1]["event"] == "done"
    assert {event["step"] for event in events[:-1]} >= {"read", "mask", "network", "pixels"}
    result = read_result(tmp_path)
    first = pydicom.dcmread(files[0])
    assert result.pixels.shape == (len(files), first.Rows, first.Columns)
    assert result.source_sop_instance_uids[0] == first.SOPInstanceUID
    assert result.pixels.max() <= 4095
    assert not result.pixels[~result.mask].any(), "the output is brain-only"
    assert np.count_nonzero(result.pixels) > 0.5 * np.count_nonzero(result.mask)


def test_frames_of_one_object_give_the_pixels_of_the_slices(worker: Worker, phantom_ct: Path, tmp_path: Path) -> None:
    files = _in_order(phantom_ct)
    assert worker.do(job="slices", files=files, out=str(tmp_path))[-1]["event"] == "done"
    expected = read_result(tmp_path).pixels
    frames = tuple(range(len(files), 0, -1))
    path = write(enhanced_ct([pydicom.dcmread(file) for file in reversed(files)]), tmp_path / "enhanced.dcm")
    events = worker.do(job="frames", files=[str(path)] * len(files), frames=frames, out=str(tmp_path))
    assert events[-1]["event"] == "done"
    np.testing.assert_array_equal(read_result(tmp_path).pixels, expected)


def test_what_has_no_brain_is_refused_with_figures(worker: Worker, phantom_ct: Path, tmp_path: Path) -> None:
    files = []
    for path in _in_order(phantom_ct):
        ds = pydicom.dcmread(path)
        ds.PixelData = np.zeros_like(ds.pixel_array).tobytes()  # air everywhere
        files.append(str(tmp_path / f"{ds.InstanceNumber}.dcm"))
        ds.save_as(files[-1])
    [*_, outcome] = worker.do(job="air", files=files, out=str(tmp_path))
    assert (outcome["event"], outcome["code"]) == ("refused", "no_brain")
    assert outcome["figures"]


def test_a_damaged_file_fails_the_job_and_the_worker_goes_on(worker: Worker, phantom_ct: Path, tmp_path: Path) -> None:
    files = _in_order(phantom_ct)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(Path(files[3]).read_bytes()[:3000])
    [*_, outcome] = worker.do(job="broken", files=[*files[:3], str(broken), *files[4:]], out=str(tmp_path))
    assert (outcome["event"], outcome["retry"]) == ("failed", False)
    [*_, outcome] = worker.do(job="after", files=files, out=str(tmp_path))
    assert outcome["event"] == "done"


def test_the_worker_ends_when_its_service_is_gone(tiny_bundle: Path) -> None:
    started = Worker(tiny_bundle)
    assert started.next()["event"] == "ready"
    _, errors = started.process.communicate(timeout=30)
    assert started.process.returncode == 0, errors


def test_a_bundle_with_a_wrong_hash_is_not_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(tiny_bundle, copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    started = Worker(copy)
    answer = started.next()
    started.process.communicate(timeout=30)
    assert (answer["event"], answer["job"]) == ("failed", None)
    assert started.process.returncode == 2
