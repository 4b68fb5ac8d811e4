"""Companions and notes before foreign tools: dciodvfy, dsrdump, dcmpschk, Orthanc and highdicom, over real CT.

Covers a tilted GE series with two slice thicknesses, a Philips series and public geometry cases. Left out: graphical
viewers, which apply a presentation state or show a report each in its own way.
"""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from dicom_node.demo.throwaway import free_port
from dicom_node.derive.companions.writer import SeriesReference, write_companions, write_note
from dicom_node.derive.writer import derive_series
from tests.dicom_node.derive.companions.companion_cases import by_kind, companion_request, note_request
from tests.dicom_node.derive.derive_cases import raw_value, request_for
from tests.dicom_node.derive.test_derive_real import CASES, _sorted_paths
from tests.peers.orthanc import running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180), pytest.mark.xdist_group("orthanc")]

#: The dictionary of dicom3tools in Debian does not know SyntheticData.
UNKNOWN_TO_DCIODVFY = "(0x0008,0x001c)"


@pytest.fixture(scope="module", params=CASES)
def real(request, shared_data, tmp_path_factory):
    """CT files, the request, and every object by kind."""
    folder, number, _ = CASES[request.param]
    paths = _sorted_paths(shared_data / folder, number)
    out = tmp_path_factory.mktemp("real")
    derived = derive_series(request_for(paths), out)
    record = {
        "series_instance_uid": derived.series_instance_uid,
        "instances": [
            {"sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid} for one in derived.instances
        ],
    }
    asked = companion_request(paths, result=SeriesReference.from_record(record), input_digest=derived.input_digest)
    notes = [write_note(note_request(paths, form), out) for form in ("sr", "sc")]
    return paths, asked, by_kind([*write_companions(asked, out), *notes]), derived


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, errors="replace", timeout=60)


def _errors(path: Path) -> set[str]:
    done = _run("dciodvfy", path)
    lines = (done.stdout + done.stderr).splitlines()
    return {line for line in lines if line.startswith("Error") and UNKNOWN_TO_DCIODVFY not in line}


def test_dciodvfy_finds_no_error_that_the_ct_does_not_have(real):
    paths, _, found, _ = real
    inherited = set().union(*map(_errors, paths))
    assert len(found) == 7
    for kind, series in found.items():
        assert _errors(series.instances[0].path) <= inherited, kind


@pytest.mark.parametrize("kind", ["sr", "note-sr", "ko"])
def test_dsrdump_renders_the_documents(real, kind):
    done = _run("dsrdump", "+Pl", real[2][kind].instances[0].path)
    assert done.returncode == 0, done.stderr
    wanted = {
        "sr": (
            "Brain mask of the CT",
            "Synthetic, no MR acquisition",
            "brain volume ml",
            "Trained on a digital phantom",
        ),
        "note-sr": ("NOT PROCESSED", "A slice is missing in the middle", "tilt: 18.53 degrees"),
        "ko": ("Rejected for Quality Reasons", "Superseded by a newer result", real[3].series_instance_uid),
    }
    for text in wanted[kind]:
        assert text in done.stdout


def test_dcmpschk_accepts_the_warning(real):
    """Where the CT has a malformed age, which is copied as it is, that is the one thing it objects to."""
    paths, _, found, _ = real
    done = _run("dcmpschk", found["gsps"].instances[0].path)
    told = done.stdout + done.stderr
    affected = set(re.findall(r"Affected attribute: (\w+)", told))
    age = raw_value(paths[0], "PatientAge") if "PatientAge" in pydicom.dcmread(paths[0]) else b""
    malformed = bool(age) and not re.fullmatch(rb"\d{3}[DWMY]", age)
    assert affected == ({"PatientAge"} if malformed else set())
    assert ("Test passed" in told) == (not malformed), told


def test_highdicom_reads_mask_and_map_back_equal(real):
    paths, asked, found, _ = real
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    seg = highdicom.seg.segread(found["seg"].instances[0].path)
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels[..., 0].astype(bool), asked.mask)
    image = highdicom.imread(found["pm"].instances[0].path)
    values = image.get_frames(apply_real_world_transform=True)

    def wanted(uid):
        return asked.expected_error[uids.index(uid)]

    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence, 1):
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_array_equal(image.pixel_array.reshape(-1, *asked.mask.shape[1:])[number - 1], wanted(uid))
        # As real-world values: the mapping of the map is the identity.
        np.testing.assert_array_equal(values[number - 1], wanted(uid))


def _data_set(file: bytes) -> bytes:
    """Bytes after the file meta information, whose group Orthanc writes anew."""
    stream = io.BytesIO(file)
    pydicom.filereader.read_preamble(stream, force=False)
    pydicom.filereader._read_file_meta_info(stream)
    return file[stream.tell() :]


def test_orthanc_takes_them_and_gives_them_back_unchanged(real, tmp_path):
    _, _, found, _ = real
    files = {one.instances[0].sop_instance_uid: one.instances[0].path for one in found.values()}
    port = free_port()
    with running_orthanc(tmp_path, http_port=free_port(), dicom_port=port, node_port=free_port()) as orthanc:
        from dicom_node.deliver.sender import send_instances
        from dicom_node.net.remote import Remote

        report = send_instances(Remote("orthanc", "ORTHANC", "127.0.0.1", port), "JMMDA_NODE", tuple(files.values()))
        assert report.complete, report
        given_back = {}
        for instance in orthanc.get("/instances"):
            file = orthanc.request(f"/instances/{instance}/file")
            given_back[str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID)] = _data_set(file)
        assert given_back == {uid: _data_set(path.read_bytes()) for uid, path in files.items()}
        assert len(orthanc.get("/series")) == 7
        assert len(orthanc.get("/studies")) == 1
