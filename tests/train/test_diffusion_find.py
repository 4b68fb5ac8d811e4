"""Finding series in folders, and what kind each is.

Covers nesting, foreign and broken files, repeated instances, two series under one UID, the kinds of MR and CT series,
and that nothing of the patient is kept, on generated folders and on two real studies. Leaves out pixels.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from diffusion_cases import STEP_MM, enhanced_dataset, mr_dataset, write_volumes
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage, RLELossless

from tests.dicom_node.dicom.builders import PATIENT_ID, PATIENT_NAME, ct_dataset, ct_stack, uid, write
from train.data.diffusion import DiffusionError, find_series, read_diffusion, scan_folder

ROOT = Path(__file__).resolve().parents[2]
X, Y = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def test_nested_folder_with_foreign_and_broken_files(tmp_path: Path) -> None:
    write_volumes(tmp_path / "a" / "b" / "c", [(0, None, 50), (1000, X, 20)])
    ct_stack(tmp_path / "elsewhere", n=3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").write_bytes(b"")
    whole = (tmp_path / "a" / "b" / "c" / "v0-s0").read_bytes()
    (tmp_path / "broken.dcm").write_bytes(whole[:300])
    scan = scan_folder(tmp_path)
    assert (scan.n_files, scan.n_not_dicom, scan.n_broken, scan.n_repeated) == (12, 2, 1, 0)
    kinds = {series.kind: series for series in scan.series}
    assert set(kinds) == {"ct", "dwi"}
    assert (kinds["dwi"].n_images, kinds["dwi"].n_slices, kinds["dwi"].b_values) == (6, 3, (0.0, 1000.0))
    assert len(kinds["ct"].paths) == 3


def test_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    assert find_series(tmp_path) == ()
    with pytest.raises(DiffusionError, match="unreadable"):
        find_series(tmp_path / "not there")


def test_directory_file_and_structured_report(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 20)])
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.SOPClassUID, directory.SOPInstanceUID = MediaStorageDirectoryStorage, uid("directory")
    directory.DirectoryRecordSequence = []
    write(directory, tmp_path / "DICOMDIR")
    report = ct_dataset(0, Modality="SR", SOPClassUID=ComprehensiveSRStorage, series="report", PixelData=None)
    write(report, tmp_path / "report")
    scan = scan_folder(tmp_path)
    assert (scan.n_not_dicom, scan.n_broken, scan.n_repeated) == (1, 0, 0)
    assert [series.kind for series in scan.series if series.modality == "other"] == ["other"]


def test_file_that_appears_twice_counts_once(tmp_path: Path) -> None:
    paths = write_volumes(tmp_path / "first", [(1000, X, 20)])
    for path in paths[:2]:
        shutil.copy(path, tmp_path / f"copy of {path.name}")
    scan = scan_folder(tmp_path)
    assert scan.n_repeated == 2
    (series,) = scan.series
    assert (len(series.paths), series.faults) == (3, ())
    assert series.notes == ("2 files repeat an instance",)


def test_copy_in_another_transfer_syntax_counts_once(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 20)])
    copy = mr_dataset(0, z_mm=0.0, b_value=1000, direction=X, level=20)
    copy.compress(RLELossless, generate_instance_uid=False)
    write(copy, tmp_path / "compressed")
    scan = scan_folder(tmp_path)
    assert scan.n_repeated == 1
    assert scan.series[0].faults == ()


@pytest.mark.parametrize(
    ("change", "same_sop"),
    [
        ({"StudyInstanceUID": uid("another study")}, False),
        ({"FrameOfReferenceUID": uid("another frame")}, False),
        ({"PatientID": "TEST-0002"}, False),
        ({"PixelData": np.full((8, 8), 77, dtype=np.uint16).tobytes()}, True),
        ({"PixelData": np.full((8, 8), 77, dtype=np.uint16).tobytes()}, False),
    ],
    ids=["study", "frame of reference", "patient", "same instance, other pixels", "same place, other pixels"],
)
def test_two_series_under_one_uid_are_reported_and_refused(
    change: dict[str, object], same_sop: bool, tmp_path: Path
) -> None:
    write_volumes(tmp_path / "one", [(1000, X, 20)])
    for k in range(3):
        # What identifies a series must count even where no two images compete for a place.
        z_mm = STEP_MM * k + (0 if "PixelData" in change else 100)
        ds = mr_dataset(k, z_mm=z_mm, b_value=1000, direction=X, level=20 + 10 * k, **change)
        if not same_sop:
            ds.SOPInstanceUID = uid("another instance", k)
        write(ds, tmp_path / "two" / str(k))
    (series,) = find_series(tmp_path)
    assert series.faults == ("duplicate_uid",)
    with pytest.raises(DiffusionError) as caught:
        read_diffusion(series)
    assert caught.value.code == "duplicate_uid"


def test_repeated_acquisition_is_no_duplicate(tmp_path: Path) -> None:
    # Four averages kept apart: one place and weighting, other pixels, but running instance numbers.
    write_volumes(tmp_path, [(1000, X, 20), (1000, X, 22), (1000, X, 24), (1000, X, 26)])
    (series,) = find_series(tmp_path)
    assert series.faults == ()
    assert series.n_images == 12


@pytest.mark.parametrize(
    ("image_type", "b_values", "description", "expected"),
    [
        (("ORIGINAL", "PRIMARY", "DIFFUSION"), (0.0, 1000.0), "ep2d", "dwi"),
        (("ORIGINAL", "PRIMARY", "OTHER"), (None, 1000.0), "dti", "dwi"),
        (("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"), (0.0, 1000.0), "ep2d_TRACEW", "trace"),
        (("DERIVED", "SECONDARY", "COMBINED"), (1000.0, 1000.0), "Ax DWI", "trace"),
        (("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"), (1000.0, 1000.0), "ep2d_ADC", "adc"),
        (("DERIVED", "PRIMARY", "OTHER"), (None, None), "ADC (10^-6 mm2/s)", "adc"),
        (("ORIGINAL", "PRIMARY", "OTHER"), (0.0, 1000.0), "DWI and ADC", "dwi"),
        (("DERIVED", "PRIMARY", "EADC"), (None, None), "eADC", "other"),
        (("DERIVED", "PRIMARY", "DIFFUSION", "FA"), (1000.0, 1000.0), "FA", "other"),
        (("DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVALUE", "TRACEW"), (1400.0, 1400.0), "calculated", "other"),
        (("ORIGINAL", "PRIMARY", "M", "ND"), (None, None), "t2_tse", "other"),
        (("ORIGINAL", "PRIMARY", "LOCALIZER"), (None, None), "scout", "other"),
    ],
)
def test_kind_of_an_mr_series(
    image_type: Sequence[str],
    b_values: Sequence[float | None],
    description: str,
    expected: str,
    tmp_path: Path,
) -> None:
    volumes = [(b, None, 20 + 5 * k) for k, b in enumerate(b_values)]
    write_volumes(tmp_path, volumes, image_type=image_type, SeriesDescription=description)
    (series,) = find_series(tmp_path)
    assert series.kind == expected
    assert series.reason
    if expected == "other":
        with pytest.raises(DiffusionError, match="no_dwi"):
            read_diffusion(series)


def test_enhanced_object_is_found_with_its_frames(tmp_path: Path) -> None:
    frames = [(STEP_MM * k, b, "DIRECTIONAL", X, 20 + k) for b in (0, 1000) for k in range(3)]
    write(enhanced_dataset(frames), tmp_path / "one")
    (series,) = find_series(tmp_path)
    assert (series.kind, series.n_images, series.n_slices) == ("dwi", 6, 3)
    assert series.b_values == (0.0, 1000.0)


def test_own_results_are_no_training_data(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 20)], image_type=("DERIVED", "SECONDARY", "DIFFUSION", "SYNTHETIC"))
    (series,) = find_series(tmp_path)
    assert (series.kind, "synthetic" in series.reason) == ("other", True)


def test_nothing_of_the_patient_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        write_volumes(tmp_path / "mr", [(1000, X, 20)])
        ct_stack(tmp_path / "ct", n=3)
        write(ct_dataset(0, PatientID="", series="anonymous"), tmp_path / "anonymous")
        (tmp_path / "broken").write_bytes((tmp_path / "mr" / "v0-s0").read_bytes()[:700])
        scan = scan_folder(tmp_path)
    by_uid = {series.series_instance_uid: series for series in scan.series}
    dwi, ct = by_uid[uid("study", "dwi")], by_uid[uid("study", "series")]
    assert dwi.same_patient_key == ct.same_patient_key != ""
    assert by_uid[uid("study", "anonymous")].same_patient_key == ""
    # The digest of the ID alone could be guessed; it must not be what is kept.
    kept = pickle.dumps(scan) + repr(scan).encode() + caplog.text.encode()
    for secret in (PATIENT_ID, PATIENT_NAME, "19500101"):
        assert secret.encode() not in kept
    assert hashlib.sha256(PATIENT_ID.encode()).hexdigest().encode() not in kept


def test_key_of_a_patient_means_nothing_in_another_run(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 20)])
    find = (
        "import sys, pathlib; from train.data.diffusion import find_series;"
        "print(find_series(pathlib.Path(sys.argv[1]))[0].same_patient_key)"
    )
    keys = [
        subprocess.run(
            [sys.executable, "-c", find, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip()
        for _ in range(2)
    ]
    assert len({*keys, find_series(tmp_path)[0].same_patient_key}) == 3
    assert all(len(key) == 32 for key in keys)


def test_real_study_of_a_ct_scanner(shared_data: Path) -> None:
    scan = scan_folder(shared_data / "philips_study")
    assert (scan.n_files, scan.n_broken, scan.n_repeated) == (35, 0, 0)
    found = sorted((series.kind, series.n_images, series.reason) for series in scan.series)
    assert [kind for kind, *_ in found] == ["ct", "other", "other"]
    assert found[0][1] == 28
    assert {reason.split()[0] for kind, _, reason in found if kind == "other"} == {"captured", "localizer"}


def test_real_diffusion_series_of_three_makers(shared_data: Path) -> None:
    expected = {
        "toshiba_dwi": ("canon", 160, 40, (1500.0,)),
        "ge_dwi": ("ge", 14, 2, (0.0, 1000.0)),
        "siemens_mosaic": ("siemens", 125, 25, (0.0, 1000.0)),
    }
    for name, facts in expected.items():
        (series,) = find_series(shared_data / name)
        assert series.kind == "dwi"
        assert (series.manufacturer, series.n_images, series.n_slices, series.b_values) == facts
