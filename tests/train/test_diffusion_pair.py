"""The pair of a case: which CT and which diffusion series, and reading the CT as the node does.

Covers the choice among generated series with the reasons for the rest, pairs of two patients, series under a shared
UID, CT in an 8-bit window, and the real CT series. Leaves out the node's own rules of choice and gate, which have their
tests in `tests/dicom_node/dicom`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusion_cases import write_volumes

from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import pixel_digest
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import read_header
from dicom_node.synthesize.pipeline import load_ct_volume
from tests.dicom_node.dicom.builders import ct_stack, uid
from train.data.diffusion import (
    DiffusionError,
    SeriesFacts,
    choose_pair,
    find_series,
    judge_pair,
    read_ct,
    read_diffusion,
)
from train.data.phantom import PhantomCase
from train.data.phantom_dicom import write_ct_series
from train.data.phantom_mr import write_dwi_series

X = (1.0, 0.0, 0.0)


def refused(series: tuple[SeriesFacts, ...], **options: object) -> DiffusionError:
    with pytest.raises(DiffusionError) as caught:
        choose_pair(series, **options)  # type: ignore[arg-type]
    return caught.value


def test_best_pair_of_a_crowded_case(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct", series="soft")
    ct_stack(tmp_path / "bone", series="bone", ConvolutionKernel="H70s")
    ct_stack(tmp_path / "cta", series="contrast", ContrastBolusAgent="APPLIED")
    ct_stack(tmp_path / "scout", n=1, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_volumes(tmp_path / "dwi", [(0, None, 90), (1000, X, 20)], series="dwi")
    trace = ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")
    write_volumes(tmp_path / "trace", [(1000, None, 20)], series="trace", image_type=trace)
    write_volumes(tmp_path / "short", [(1000, X, 20)], n_slices=2, series="short")
    write_volumes(tmp_path / "low", [(0, None, 90), (400, X, 20)], series="low")
    write_volumes(tmp_path / "adc", [(None, None, 20)], series="adc", image_type=("DERIVED", "PRIMARY", "ADC"))
    write_volumes(tmp_path / "t2", [(None, None, 20)], series="t2", image_type=("ORIGINAL", "PRIMARY", "M"))
    choice = judge_pair(find_series(tmp_path))
    assert choice.ct.series_instance_uid == uid("study", "soft")
    assert choice.dwi.series_instance_uid == uid("study", "trace")
    reasons = {left.series_instance_uid: left.reason for left in choice.left_out}
    told = {
        "bone": "bone_kernel",
        "contrast": "contrast",
        "scout": "localizer",
        "dwi": "same b value",
        "short": "2 slice positions",
        "low": "highest b value 400",
        "adc": "target is dwi",
        "t2": "without a sign of diffusion",
    }
    assert set(reasons) == {uid("study", name) for name in told}
    for name, word in told.items():
        assert word in reasons[uid("study", name)]
    _, adc = choose_pair(find_series(tmp_path), target="adc")
    assert adc.series_instance_uid == uid("study", "adc")


def test_series_without_b_value_is_taken_when_there_is_no_other(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct")
    write_volumes(tmp_path / "mixed", [(None, None, 90), (None, None, 20)])
    assert choose_pair(find_series(tmp_path))[1].b_values == ()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_volumes(tmp_path / "low", [(0, None, 90), (400, X, 20)])
    assert refused(find_series(tmp_path)).code == "no_ct"
    ct_stack(tmp_path / "ct", n=3)
    error = refused(find_series(tmp_path))
    assert (error.code, "too_few_slices" in error.reason) == ("no_ct", True)
    ct_stack(tmp_path / "ct", n=24)
    assert refused(find_series(tmp_path)).code == "no_dwi"
    assert refused(find_series(tmp_path), target="adc").code == "no_dwi"


def test_pair_of_two_patients_is_refused(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct")
    write_volumes(tmp_path / "dwi", [(1000, X, 20)], PatientID="TEST-0002", StudyInstanceUID=uid("mr study"))
    error = refused(find_series(tmp_path))
    assert error.code == "different_patients"
    assert "TEST" not in str(error)


def test_pair_found_in_two_searches_is_compared_as_well(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct")
    write_volumes(tmp_path / "same", [(1000, X, 20)])
    write_volumes(tmp_path / "other", [(1000, X, 20)], PatientID="TEST-0002")
    ct = find_series(tmp_path / "ct")
    assert choose_pair(ct + find_series(tmp_path / "same"))[0] == ct[0]
    assert refused(ct + find_series(tmp_path / "other")).code == "different_patients"


def test_empty_patient_id_proves_nothing(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct", PatientID="")
    write_volumes(tmp_path / "dwi", [(1000, X, 20)], PatientID="TEST-0002")
    assert choose_pair(find_series(tmp_path))[0].kind == "ct"


def test_b0_in_a_series_of_its_own(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct")
    write_volumes(tmp_path / "high", [(1000, X, 20)], series="high")
    write_volumes(tmp_path / "b0", [(0, None, 90)], series="b0")
    write_volumes(tmp_path / "moved", [(0, None, 70)], n_slices=5, series="moved", FrameOfReferenceUID=uid("another"))
    choice = judge_pair(find_series(tmp_path))
    assert choice.dwi.series_instance_uid == uid("study", "high")
    assert choice.b0 is not None
    assert choice.b0.series_instance_uid == uid("study", "b0")
    assert [left.series_instance_uid for left in choice.left_out] == [uid("study", "moved")]
    alone, both = read_diffusion(choice.dwi), read_diffusion(choice.dwi, b0_series=choice.b0)
    assert alone.b0 is None
    assert both.b0 is not None
    assert both.b0.GetPixel(0, 0, 0) == 90.0
    assert "b = 0 comes from a series of its own" in both.notes


@pytest.mark.parametrize("vendor", ["standard", "ge", "siemens", "toshiba"])
def test_phantom_pair_as_each_maker_writes_it(vendor: str, phantom_case: PhantomCase, tmp_path: Path) -> None:
    write_ct_series(phantom_case, tmp_path / "CT")
    write_dwi_series(phantom_case, tmp_path / "DWI", vendor=vendor, matrix=48)  # type: ignore[arg-type]
    ct, dwi = choose_pair(find_series(tmp_path))
    assert dwi.b_values == ((1000.0,) if vendor == "toshiba" else (0.0, 1000.0))
    found = read_diffusion(dwi)
    assert (found.b_value, found.n_directions) == (1000.0, 1)
    assert found.b0 is not None
    assert found.dwi.GetSize() == found.b0.GetSize() == (48, 48, len(ct.paths))


def test_shared_uid_is_refused_or_left_out(tmp_path: Path) -> None:
    ct_stack(tmp_path / "ct")
    write_volumes(tmp_path / "one", [(1000, X, 20)])
    write_volumes(tmp_path / "two", [(1000, X, 70)], FrameOfReferenceUID=uid("another"))
    assert refused(find_series(tmp_path)).code == "duplicate_uid"
    write_volumes(tmp_path / "three", [(800, X, 20)], series="third")
    choice = judge_pair(find_series(tmp_path))
    assert choice.dwi.series_instance_uid == uid("study", "third")
    assert any("two different series claim" in left.reason for left in choice.left_out)


# --- CT ----------------------------------------------------------------------------------------------------------


def test_ct_is_read_as_the_node_reads_it(shared_data: Path) -> None:
    (series,) = find_series(shared_data / "ge_head_ct")
    volume = read_ct(series)
    headers = [read_header(path) for path in sorted((shared_data / "ge_head_ct").iterdir())]
    node = load_ct_volume(check_stack(headers, GeometrySettings(), pixel_digest=pixel_digest).headers)
    for name in ("hu", "positions_mm", "orientation", "thickness_mm"):
        np.testing.assert_array_equal(getattr(volume, name), getattr(node, name))
    assert volume.spacing_mm == node.spacing_mm
    assert volume.hu.shape == (28, 512, 512)
    assert set(np.unique(volume.thickness_mm)) == {4.0, 7.0}


def test_windowed_ct_is_refused_unless_asked_for(tmp_path: Path) -> None:
    window = (np.arange(256, dtype=np.uint8).reshape(16, 16) % 255).astype(np.uint8)
    ct_stack(tmp_path, pixels=window, intercept=0.0)
    (series,) = find_series(tmp_path)
    with pytest.raises(DiffusionError, match="ct_window") as caught:
        read_ct(series)
    assert caught.value.figures == {"lowest": 0.0}
    assert read_ct(series, unit="window").hu.max() == 254.0


def test_padding_does_not_make_a_window_pass(tmp_path: Path) -> None:
    window = (np.arange(256, dtype=np.uint16) % 250 + 5).reshape(16, 16)
    window[0] = 0
    ct_stack(tmp_path, pixels=window, intercept=0.0, PixelPaddingValue=0)
    with pytest.raises(DiffusionError, match="ct_window"):
        read_ct(find_series(tmp_path)[0])


def test_ct_that_the_gate_refuses(tmp_path: Path) -> None:
    paths = ct_stack(tmp_path, n=24)
    paths[10].unlink()
    with pytest.raises(DiffusionError, match="geometry: gap"):
        read_ct(find_series(tmp_path)[0])
    for path in paths[1:10] + paths[11:]:
        path.unlink()
    with pytest.raises(DiffusionError, match="one_slice"):
        read_ct(find_series(tmp_path)[0])


def test_ct_with_truncated_pixels(tmp_path: Path) -> None:
    paths = ct_stack(tmp_path, n=24)
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    with pytest.raises(DiffusionError, match="unreadable: pixel_data"):
        read_ct(find_series(tmp_path)[0])


def test_diffusion_series_is_no_ct(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 20)])
    with pytest.raises(DiffusionError, match="no_ct"):
        read_ct(find_series(tmp_path)[0])
