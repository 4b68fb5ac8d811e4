"""Both kinds of object before independent judges, made from real CT: what they are, where they lie, that they travel.

dciodvfy (dicom3tools), highdicom's own IOD tables, SimpleITK, dcm2niix, DCMTK's storescp and storescu, and Orthanc.
The sources: a tilted GE head with uneven spacing, a Philips series, and a stack with gantry tilt. Left out: the whole
journey through a running node (`test_orthanc_route`), graphical viewers.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import (
    AttributeTypeValues,
    construct_module_tree,
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
)
from pydicom.datadict import tag_for_keyword

from dicom_node.deliver.sender import send_instances
from dicom_node.demo.throwaway import free_port
from dicom_node.derive.writer import DerivedSeries, derive_series
from dicom_node.dicom.labels import check_encoded
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.net.part10 import read_head
from dicom_node.net.remote import Remote
from tests.dicom_node.derive.derive_cases import PATIENT_BUNDLE, request_for
from tests.dicom_node.derive.test_derive_real import CASES, _sorted_paths
from tests.peers.orthanc import Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("orthanc")]

KINDS = ("mr", "sc")
NAMES = ("ge", "philips", "tilted")
#: The dictionary of dicom3tools in Debian does not know SyntheticData.
KNOWN = re.compile(r"not a recognized standard attribute - \(0x0008,0x001c\)")


@dataclass(frozen=True)
class Made:
    """A derived series and its CT, slice by slice."""

    kind: str
    sources: tuple[Path, ...]
    series: DerivedSeries

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(instance.path for instance in self.series.instances)


@pytest.fixture(scope="module", params=[f"{name}-{kind}" for name in NAMES for kind in KINDS])
def made(request, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name, kind = request.param.split("-")
    folder, number, count = CASES[name]
    sources = _sorted_paths(shared_data / folder, number)
    assert len(sources) == count
    wanted = request_for(sources, PATIENT_BUNDLE, output=OutputSettings(object=kind))
    return Made(kind, sources, derive_series(wanted, tmp_path_factory.mktemp(request.param)))


# --- validators --------------------------------------------------------------------------------------------------


def _errors(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    assert any(line in ("MRImage", "SCImage", "CTImage") for line in lines), "dciodvfy did not recognise the class"
    return {line for line in lines if line.startswith("Error") and not KNOWN.search(line)}


def test_dciodvfy_finds_no_error_that_the_ct_does_not_have(made: Made) -> None:
    for source, path in zip(made.sources, made.paths, strict=True):
        assert _errors(path) <= _errors(source)


def test_dciodvfy_would_have_found_one(made: Made, tmp_path: Path) -> None:
    ds = pydicom.dcmread(made.paths[0])
    del ds.PatientName, ds.Rows
    ds.save_as(tmp_path / "bad.dcm")
    assert _errors(tmp_path / "bad.dcm") - _errors(made.sources[0])


def _lacking(ds: pydicom.Dataset, tree: dict, where: str, *, demanded: bool = True) -> Iterator[str]:
    """Attributes of type 1 without a value and of type 2 that are absent; if not demanded, in items only."""
    for keyword, node in tree["attributes"].items():
        if tag_for_keyword(keyword) is None:  # overlays, whose group is a range
            continue
        kind = node["type"]
        if demanded and kind is AttributeTypeValues.REQUIRED and (keyword not in ds or ds[keyword].is_empty):
            yield f"{where}.{keyword} (type 1)"
        if demanded and kind is AttributeTypeValues.REQUIRED_EMPTY_IF_UNKNOWN and keyword not in ds:
            yield f"{where}.{keyword} (type 2)"
        if "attributes" in node and keyword in ds:
            for item in ds[keyword].value or ():
                yield from _lacking(item, node, f"{where}.{keyword}")


def _at_the_top(attribute: dict) -> bool:
    return not attribute["path"] and tag_for_keyword(attribute["keyword"]) is not None


def _lacking_in_modules(ds: pydicom.Dataset) -> set[str]:
    """Over all modules of the IOD; optional ones count as used when an attribute of type 1 is there."""
    lacking: set[str] = set()
    for module in get_iod_module_map()[get_sop_class_iod_map()[ds.SOPClassUID]]:
        attributes = [one for one in get_module_attribute_map()[module["key"]] if _at_the_top(one)]
        used = any(one["type"] == "1" and one["keyword"] in ds for one in attributes)
        tree = construct_module_tree(module["key"])
        lacking |= set(_lacking(ds, tree, module["key"], demanded=module["usage"] == "M" or used))
    return lacking


def _copied(lacking: set[str]) -> set[str]:
    """Without what stands inside sequences that were copied from the CT as they are."""
    return {one for one in lacking if not re.match(r"(patient|general-study)\.\w+Sequence\.", one)}


def test_the_iod_tables_of_highdicom_miss_nothing(made: Made) -> None:
    for path in made.paths:
        assert _copied(_lacking_in_modules(pydicom.dcmread(path))) == set()


@pytest.mark.parametrize(
    "keyword", ["Modality", "PatientName", "ReferencedSOPClassUID", "ImagePositionPatient", "Rows"]
)
def test_the_iod_tables_would_have_missed_it(made: Made, keyword: str) -> None:
    ds = pydicom.dcmread(made.paths[0])
    if keyword == "ReferencedSOPClassUID":
        ds.SourceImageSequence[0].ReferencedSOPClassUID = ""
    else:
        del ds[keyword]
    assert any(keyword in one for one in _lacking_in_modules(ds))


def test_no_attribute_is_foreign_to_the_object(made: Made) -> None:
    """Whatever is written belongs to a module of the IOD; the image plane of SC and TimezoneOffset are extensions."""
    for path in made.paths[:1]:
        ds = pydicom.dcmread(path)
        modules = get_iod_module_map()[get_sop_class_iod_map()[ds.SOPClassUID]]
        known = {one["keyword"] for module in modules for one in get_module_attribute_map()[module["key"]]}
        foreign = {element.keyword for element in ds if not element.tag.is_private} - known
        assert foreign <= {"SpacingBetweenSlices"}, foreign


# --- geometry ----------------------------------------------------------------------------------------------------


def test_simpleitk_puts_every_image_on_its_ct_slice(made: Made) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for source, path in zip(made.sources, made.paths, strict=True):
        ct, image = sitk.ReadImage(str(source)), sitk.ReadImage(str(path))
        assert image.GetOrigin() == ct.GetOrigin()
        assert image.GetDirection() == ct.GetDirection()
        assert image.GetSpacing()[:2] == ct.GetSpacing()[:2]
        assert image.GetSize() == ct.GetSize()


def test_simpleitk_reads_the_series_with_the_geometry_of_the_ct(made: Made) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    ct, image = (sitk.ReadImage([str(path) for path in files]) for files in (made.sources, made.paths))
    assert image.GetOrigin() == ct.GetOrigin()
    assert image.GetSpacing() == ct.GetSpacing()
    assert image.GetDirection() == ct.GetDirection()
    assert image.GetSize() == ct.GetSize()
    stored = np.stack([pydicom.dcmread(path).pixel_array for path in made.paths])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), stored)


def _dcm2niix() -> str:
    """The binary of the PyPI package, or one on the path."""
    spec = find_spec("dcm2niix")
    packaged = Path(spec.origin).parent / "dcm2niix" if spec is not None and spec.origin else None
    found = str(packaged) if packaged is not None and packaged.is_file() else shutil.which("dcm2niix")
    if found is None:
        assert os.environ.get("JMMDA_REQUIRE_PEERS") != "1", "dcm2niix is not installed (pip install dcm2niix)"
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    return found


def _converted(paths: tuple[Path, ...], folder: Path) -> dict[str, list[Path]]:
    """What dcm2niix makes of some files, by suffix."""
    source, out = folder / "in", folder / "out"
    source.mkdir(parents=True)
    out.mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, source / f"{number:03d}.dcm")
    command = [_dcm2niix(), "-f", "%s", "-z", "n", "-b", "y", "-ba", "n", "-o", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[Path]] = {}
    for path in out.iterdir():
        found.setdefault(path.suffix, []).append(path)
    return found


def test_dcm2niix_reads_a_plain_image_and_no_diffusion(made: Made, tmp_path: Path) -> None:
    found = _converted(made.paths, tmp_path)
    assert set(found) == {".nii", ".json"}, "no .bval, no .bvec"
    for path in found[".json"]:
        record = json.loads(path.read_text())
        # dcm2niix names no modality but those it knows; OT is none of them.
        assert record.get("Modality") == {"mr": "MR", "sc": None}[made.kind]
        assert record["ImageType"][:4] == ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
        assert record["SeriesDescription"].startswith("SYNTHETIC")
        assert not [key for key in record if "diffusion" in key.lower() or key in ("EchoTime", "RepetitionTime")]


def test_dcm2niix_would_have_made_a_b_value_file(shared_data: Path, tmp_path: Path) -> None:
    """The way it is told that a series is diffusion: the attribute that we never write."""
    folder, number, _ = CASES["philips"]
    wanted = request_for(_sorted_paths(shared_data / folder, number), PATIENT_BUNDLE)
    (tmp_path / "made").mkdir()
    changed = []
    for instance in derive_series(wanted, tmp_path / "made").instances:
        ds = pydicom.dcmread(instance.path)
        ds.Manufacturer = "Philips"
        ds.DiffusionBValue = 1000.0
        ds.DiffusionGradientOrientation = [0.0, 0.0, 1.0]
        ds.save_as(instance.path)
        changed.append(instance.path)
    assert ".bval" in _converted(tuple(changed), tmp_path)


# --- transport ---------------------------------------------------------------------------------------------------


def _dcmtk(name: str) -> str:
    """Program of DCMTK; pynetdicom puts some of the same names beside the Python that runs."""
    own = Path(sys.executable).parent
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != own]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found is not None, f"{name} of DCMTK is not on the path"
    return found


def _data_set(file: bytes) -> bytes:
    """Bytes after the file meta information, whose group every receiver writes anew."""
    return file[read_head(file).data_set_offset :]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, http_port=free_port(), dicom_port=free_port(), node_port=free_port()) as pacs:
        yield pacs


def test_orthanc_gives_back_what_dcmtk_sent_it(made: Made, orthanc: Orthanc) -> None:
    address = ["-aec", "ORTHANC", "127.0.0.1", str(orthanc.dicom_port)]
    done = subprocess.run(
        [_dcmtk("storescu"), "-R", "-xe", *address, *map(str, made.paths)], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    _same_as_in(orthanc, made)


def test_orthanc_gives_back_what_we_sent_it(made: Made, orthanc: Orthanc) -> None:
    _forget(orthanc, made)
    remote = Remote("orthanc", "ORTHANC", "127.0.0.1", orthanc.dicom_port)
    report = send_instances(
        remote, "JMMDA_NODE", made.paths, check=lambda data: check_encoded(data, made.series.label_facts)
    )
    assert report.complete, report
    _same_as_in(orthanc, made)


def _find(orthanc: Orthanc, made: Made) -> list[str]:
    query = {"Level": "Series", "Query": {"SeriesInstanceUID": made.series.series_instance_uid}}
    return list(json.loads(orthanc.request("/tools/find", json.dumps(query).encode(), "POST")))


def _forget(orthanc: Orthanc, made: Made) -> None:
    for series in _find(orthanc, made):
        orthanc.request(f"/series/{series}", method="DELETE")


def _same_as_in(orthanc: Orthanc, made: Made) -> None:
    (series,) = _find(orthanc, made)
    given_back = {_data_set(file) for file in orthanc.files_of_series(series)}
    assert given_back == {_data_set(path.read_bytes()) for path in made.paths}
    tags = orthanc.get(f"/series/{series}")["MainDicomTags"]
    assert tags["Modality"] == {"mr": "MR", "sc": "OT"}[made.kind]
    # A study that Orthanc meets first through our object has the description of the CT's.
    source = pydicom.dcmread(made.sources[0], stop_before_pixels=True)
    study = orthanc.get(f"/series/{series}/study")["MainDicomTags"]
    assert study["StudyInstanceUID"] == source.StudyInstanceUID
    assert study.get("StudyDescription", "") == str(source.get("StudyDescription", ""))


def test_dcmtk_stores_what_we_send_bit_by_bit(made: Made, tmp_path: Path) -> None:
    port = free_port()
    command = [_dcmtk("storescp"), "-aet", "STORE", "-od", str(tmp_path), "+B", "+xa", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        remote = Remote("store", "STORE", "127.0.0.1", port)
        report = None
        for _ in range(50):
            report = send_instances(remote, "JMMDA_NODE", made.paths)
            if report.error is None:
                break
            time.sleep(0.1)
        assert report is not None
        assert report.complete, report
    finally:
        process.terminate()
        process.wait(10)
    stored = {_data_set(path.read_bytes()) for path in tmp_path.iterdir()}
    assert stored == {_data_set(path.read_bytes()) for path in made.paths}


def test_dcmtk_parses_every_object_without_a_word(made: Made) -> None:
    for path in made.paths[:3]:
        done = subprocess.run([_dcmtk("dcmdump"), "+fo", str(path)], capture_output=True, text=True, errors="replace")
        assert done.returncode == 0
        assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))], done.stderr
    assert pydicom.dcmread(io.BytesIO(made.paths[0].read_bytes())).SyntheticData == "YES"
