"""`jmmda-node synthesize` as a user runs it: results, refusals, exit codes, and what a second run gives.

Left out: the labels of the written objects (`tests/dicom_node/derive`) and the trained bundle's quality.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "dicom_node.cli", "synthesize", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "series").rglob("*.dcm")}


@pytest.mark.slow
def test_the_tilted_head_becomes_28_labelled_instances_in_place(
    shared_data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source = shared_data / "ge_head_ct"
    done = run(source, tmp_path / "out", "--bundle", tiny_bundle, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)[0]
    assert report["instances"] == 28
    originals = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, source.glob("*.dcm"))}
    results = [pydicom.dcmread(path) for path in (tmp_path / "out" / "series").rglob("*.dcm")]
    assert len(results) == 28
    for ds in results:
        original = originals.pop(ds.SourceImageSequence[0].ReferencedSOPInstanceUID)
        assert ds.ImagePositionPatient == original.ImagePositionPatient
        assert ds.ImageOrientationPatient == original.ImageOrientationPatient
        assert ds.SyntheticData == "YES"
        assert ds.pixel_array.shape == original.pixel_array.shape
    assert not originals
    assert (tmp_path / "out" / "montage.png").stat().st_size > 10_000


def test_the_empty_skull_is_refused_with_figures_and_exit_code_3(
    shared_data: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    done = run(shared_data / "philips_study", tmp_path / "out", "--bundle", tiny_bundle, "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)[0]
    assert report["refused"]["code"] == "no_brain"
    assert report["refused"]["figures"]
    chosen = [one for one in report["series"] if one["chosen"]]
    assert len(chosen) == 1
    assert all(one["code"] and one["reason"] for one in report["series"])
    assert not (tmp_path / "out").exists(), "a refused study leaves nothing behind"


def test_a_second_run_gives_the_same_bytes_and_another_folder_the_same_uids(
    phantom_ct: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    for out in ("one", "one-again", "two"):
        target = tmp_path / out.removesuffix("-again")
        assert run(phantom_ct, target, "--bundle", tiny_bundle).returncode == 0
        if out == "one":
            first = {name: hashlib.sha256(data).hexdigest() for name, data in _files(target).items()}
    again = {name: hashlib.sha256(data).hexdigest() for name, data in _files(tmp_path / "one").items()}
    assert again == first
    assert set(_files(tmp_path / "two")) == set(first)
    uids = [{pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / out).rglob("*.dcm")} for out in ("one", "two")]
    assert uids[0] == uids[1]


def test_a_folder_without_dicom_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images here")
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    assert "no_dicom" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_that_does_not_exist_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 1
    assert "no_source" in done.stderr


def test_two_slices_are_refused(phantom_ct: Path, tmp_path: Path) -> None:
    for path in sorted(phantom_ct.glob("*.dcm"))[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 3
    assert "too_few_slices" in done.stdout


def test_without_positions_the_reason_is_named(phantom_ct: Path, tmp_path: Path) -> None:
    for path in phantom_ct.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        del ds.ImagePositionPatient
        ds.save_as(tmp_path / path.name)
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 3
    assert "no_position" in done.stderr


def test_a_truncated_file_is_named_and_the_rest_is_judged(phantom_ct: Path, tmp_path: Path) -> None:
    for path in phantom_ct.glob("*.dcm"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = sorted(tmp_path.glob("*.dcm"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    done = run(tmp_path, "--explain", "--json")
    assert done.returncode == 0
    assert victim.name in done.stderr
    assert "not readable" in done.stderr


@pytest.mark.parametrize("orientation", ["HFS", "FFS", "HFP", "FFP", "HFS_FLIPPED"])
def test_the_brain_lands_where_it_was_in_every_orientation(
    orientation: str, phantom_case, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The output's pixels, taken to patient coordinates, lie where the phantom's brain lies."""
    from train.data.phantom_dicom import write_ct_series

    write_ct_series(phantom_case, tmp_path / "ct", orientation=orientation)
    assert run(tmp_path / "ct", tmp_path / "out", "--bundle", tiny_bundle).returncode == 0
    originals = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (tmp_path / "ct").glob("*.dcm"))}
    inside = total = 0
    for path in (tmp_path / "out" / "series").rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        ct = originals[ds.SourceImageSequence[0].ReferencedSOPInstanceUID].pixel_array.astype(int) - 1024
        centre = ds.pixel_array[48:144, 48:144] > 0  # away from the watermark's corner
        tissue = (ct > -20) & (ct < 120)
        inside += np.count_nonzero(centre & tissue[48:144, 48:144])
        total += np.count_nonzero(centre)
    assert total > 10_000
    assert inside / total > 0.97


def test_companions_are_written_beside_the_series_and_the_expected_error_where_the_bundle_says_it(
    phantom_ct: Path, tiny_bundle: Path, uncertain_bundle: Path, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[output]\ncompanions = ["seg", "sr", "pm", "gsps"]\n')
    found = {}
    for name, bundle in (("plain", tiny_bundle), ("uncertain", uncertain_bundle)):
        out = tmp_path / name
        done = run(phantom_ct, out, "--bundle", bundle, "--config", config, "--json")
        assert done.returncode == 0, done.stderr
        kinds = {one["kind"]: one["instances"][0]["file"] for one in json.loads(done.stdout)[0]["companions"]}
        found[name] = {kind: pydicom.dcmread(out / "companions" / file) for kind, file in kinds.items()}
    assert set(found["plain"]) == {"seg", "sr", "gsps"}
    assert set(found["uncertain"]) == {"seg", "sr", "pm", "gsps"}
    errors = np.array(found["uncertain"]["pm"].pixel_array)
    mask = np.array(found["uncertain"]["seg"].pixel_array) > 0
    assert errors.dtype == np.float32
    assert errors.max() <= 1.0
    inside = errors[errors > 0]
    assert inside.size == pytest.approx(mask.sum(), rel=0.02)
    assert inside.std() > 1e-3
