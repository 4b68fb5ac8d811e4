"""Hounsfield units of every transfer syntax, sign, padding and rescale; damaged pixels are named errors.

pydicom's own `pixel_array` is the independent reference. Left out: what is done with the volume (jmmda_model).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import load_volume, pixel_digest, read_hu
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import read_header
from dicom_node.errors import Permanent
from tests.dicom_node.dicom.builders import ct_dataset, ct_stack, set_dirty, write

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

LOSSLESS = ("1.2", "1.2.1", "1.2.1.99", "1.2.2", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90", "1.2.5")
# Largest error that each lossy file may have, HU: the files were made with these steps of the rescale slope.
LOSSY = {"1.2.4.91": 6, "1.2.4.81": 1, "1.2.4.50": 70, "1.2.4.51": 40, "1.2.4.53": 40, "1.2.4.55": 40}


def _syntax_file(folder: Path, suffix: str) -> Path:
    wanted = f"1.2.840.10008.{suffix}"
    found = [path for path in folder.iterdir() if path.name.endswith(f"Syntax_{wanted}.dcm")]
    assert len(found) == 1
    assert pydicom.dcmread(found[0], stop_before_pixels=True).file_meta.TransferSyntaxUID == wanted
    return found[0]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_syntaxes_are_identical(shared_data: Path, suffix: str) -> None:
    folder = shared_data / "ct_transfer_syntaxes"
    reference = pydicom.dcmread(folder / "CTImage.dcm")
    expected = reference.pixel_array.astype(np.float32) - 1024
    # The file declares -32768 as padding but pads with -2000, which stays -3024 HU: nothing is guessed.
    assert expected.min() == -3024
    hu = read_hu(_syntax_file(folder, suffix))
    assert hu.dtype == np.float32
    np.testing.assert_array_equal(hu, expected)


@pytest.mark.parametrize("suffix", LOSSY)
def test_lossy_syntaxes_are_close(shared_data: Path, suffix: str) -> None:
    folder = shared_data / "ct_transfer_syntaxes"
    hu, original = read_hu(_syntax_file(folder, suffix)), read_hu(folder / "CTImage.dcm")
    assert 0 < np.abs(hu - original).max() <= LOSSY[suffix]
    assert np.corrcoef(hu.ravel(), original.ravel())[0, 1] > 0.999


def test_the_digest_does_not_depend_on_the_syntax(shared_data: Path) -> None:
    folder = shared_data / "ct_transfer_syntaxes"
    digests = {pixel_digest(read_header(_syntax_file(folder, suffix))) for suffix in LOSSLESS}
    assert len(digests) == 1
    assert pixel_digest(read_header(_syntax_file(folder, "1.2.4.81"))) not in digests


def _reference_hu(dataset: Dataset) -> np.ndarray:
    """The textbook way, through pydicom alone."""
    stored = dataset.pixel_array
    hu = stored.astype(np.float32) * np.float32(dataset.RescaleSlope) + np.float32(dataset.RescaleIntercept)
    if "PixelPaddingValue" in dataset:
        low, high = sorted(
            (dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
        )
        hu[(stored >= low) & (stored <= high)] = -1024
    return hu


@pytest.mark.parametrize(("folder", "number"), [("ge_head_ct", 2), ("philips_study", 201)])
def test_the_fast_path_is_bit_identical_on_real_slices(shared_data: Path, folder: str, number: int) -> None:
    paths = [path for path in sorted((shared_data / folder).iterdir()) if read_header(path).series_number == number]
    assert len(paths) == 28
    for path in paths[::5]:
        np.testing.assert_array_equal(read_hu(path), _reference_hu(pydicom.dcmread(path)))


@given(data=st.data())
def test_any_pixels_in_any_native_encoding(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.dtype(np.uint16), np.dtype(np.int16)]))
    syntax = data.draw(st.sampled_from(NATIVE))
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    pixels = data.draw(hnp.arrays(dtype, shape))
    limits = np.iinfo(dtype)
    values = st.integers(int(limits.min), int(limits.max))
    dataset = ct_dataset(pixels=pixels, intercept=data.draw(st.integers(-2000, 0)), transfer_syntax=syntax)
    dataset.RescaleSlope = data.draw(st.sampled_from(["1", "0.5", "2"]))
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        dataset.add_new(keyword, "SS" if dtype.kind == "i" else "US", data.draw(values))
    path = write(dataset, tmp_path_factory.mktemp("native") / "a.dcm")
    np.testing.assert_array_equal(read_hu(path), _reference_hu(pydicom.dcmread(path)))
    np.testing.assert_array_equal(read_hu(pydicom.dcmread(path)), read_hu(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_sizes_and_signs(dtype: type[np.integer]) -> None:
    pixels = np.array([[0, 1], [100, np.iinfo(dtype).max >> 8]], dtype=dtype)
    np.testing.assert_array_equal(read_hu(ct_dataset(pixels=pixels)), pixels.astype(np.float32) - 1024)


def test_bits_outside_bits_stored_are_cut_away_and_the_sign_is_extended() -> None:
    # 12 bits stored, an old overlay in bit 15, and -1 written without sign extension.
    pixels = np.array([[0x8005, 0x0FFF]], dtype=np.uint16)
    unsigned = ct_dataset(pixels=pixels, intercept=0, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_hu(unsigned), [[5, 4095]])
    signed = ct_dataset(pixels=pixels, intercept=0, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(read_hu(signed), [[5, -1]])
    shifted = ct_dataset(pixels=pixels << 4, intercept=0, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read_hu(shifted), [[5, 4095]])


def test_padding_value_and_range_become_air() -> None:
    pixels = np.array([[-2000, -1990, -1500, 10]], dtype=np.int16)
    one = ct_dataset(pixels=pixels, intercept=0, PixelPaddingValue=-2000)
    np.testing.assert_array_equal(read_hu(one), [[-1024, -1990, -1500, 10]])
    for value, limit in ((-2000, -1600), (-1600, -2000)):
        both = ct_dataset(pixels=pixels, intercept=0, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
        np.testing.assert_array_equal(read_hu(both), [[-1024, -1024, -1500, 10]])


def test_padding_written_with_the_wrong_vr_means_the_same_bits(tmp_path: Path) -> None:
    # 63536 is how -2000 looks to a writer that takes every padding value for unsigned.
    dataset = ct_dataset(pixels=np.array([[-2000, 7]], dtype=np.int16), intercept=0)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    np.testing.assert_array_equal(read_hu(write(dataset, tmp_path / "a.dcm")), [[-1024, 7]])


def test_monochrome1_means_the_same_hounsfield_units() -> None:
    dataset = ct_dataset()
    inverted = ct_dataset(PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_hu(inverted), read_hu(dataset))


def test_a_missing_rescale_is_one_and_zero() -> None:
    dataset = ct_dataset(RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_hu(dataset), dataset.pixel_array.astype(np.float32))


@pytest.mark.parametrize(
    ("keyword", "text"), [("RescaleIntercept", "-1024,0"), ("RescaleSlope", "x"), ("RescaleSlope", "0")]
)
def test_a_rescale_that_is_no_number_is_not_guessed(keyword: str, text: str) -> None:
    dataset = ct_dataset()
    set_dirty(dataset, keyword, text)
    with pytest.raises(Permanent) as caught:
        read_hu(dataset)
    assert caught.value.code == "pixel_data"
    assert keyword in caught.value.reason


def test_rescale_belongs_to_its_slice(tmp_path: Path) -> None:
    paths = ct_stack(tmp_path, n=3)
    for index, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept = str(-1000 - index)
        dataset.PixelData = np.full((16, 16), 40, dtype=np.uint16).tobytes()
        dataset.save_as(path)
    volume = load_volume([read_header(path) for path in paths])
    assert [float(slice_hu[0, 0]) for slice_hu in volume.hu] == [-960, -961, -962]


# --- damaged pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", NATIVE)
def test_truncated_pixels_tell_how_many_bytes_are_there(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    dataset = ct_dataset(transfer_syntax=syntax)
    dataset.PixelData = dataset.PixelData[:300]
    path = write(dataset, tmp_path / "a.dcm")
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.code == "pixel_data"
    assert caught.value.figures == {"expected_bytes": 512, "actual_bytes": 300}


def test_a_truncated_file_tells_how_many_bytes_are_there(tmp_path: Path) -> None:
    path = write(ct_dataset(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-212])
    assert read_header(path).issues == ()
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.figures == {"expected_bytes": 512, "actual_bytes": 300}


def test_more_bytes_than_needed_are_borne() -> None:
    dataset = ct_dataset()
    expected = read_hu(dataset)
    dataset.PixelData += b"\0\0\0\0"
    np.testing.assert_array_equal(read_hu(dataset), expected)


def test_rle_decodes_and_a_damaged_frame_is_named(tmp_path: Path) -> None:
    dataset = ct_dataset()
    expected = read_hu(dataset)
    dataset.compress(RLELossless)
    path = write(dataset, tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_hu(path), expected)
    whole = path.read_bytes()
    start = whole.index(b"\x02\x00\x00\x00\x40\x00\x00\x00")
    path.write_bytes(whole[:start] + b"\xff" * 16 + whole[start + 16 :])
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.code == "pixel_data"
    assert caught.value.figures["transfer_syntax_uid"] == RLELossless
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("suffix", ["1.2.4.51", "1.2.4.55", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90", "1.2.5"])
@pytest.mark.parametrize("damage", ["garbage", "empty fragment", "cut"])
def test_frames_that_do_not_decode(shared_data: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    whole = _syntax_file(shared_data / "ct_transfer_syntaxes", suffix).read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00") + 12
    item = whole.index(b"\xfe\xff\x00\xe0", start + 8) + 8
    path = tmp_path / "a.dcm"
    path.write_bytes(
        {
            "garbage": whole[:item] + b"\xaa" * (len(whole) - item - 8) + whole[-8:],
            "empty fragment": whole[: item - 4] + b"\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0",
            "cut": whole[: item + 100],
        }[damage]
    )
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.code in {"pixel_data", "unreadable"}


@pytest.mark.parametrize(
    "changes",
    [
        {"PixelData": None},
        {"Rows": None},
        {"BitsAllocated": None},
        {"BitsAllocated": 12},
        {"BitsStored": 17},
        {"SamplesPerPixel": 3},
        {"NumberOfFrames": "2"},
        {"Rows": 0},
    ],
)
def test_layouts_that_are_no_ct_slice(changes: dict[str, object]) -> None:
    dataset = ct_dataset()
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    with pytest.raises(Permanent, match="pixel_data"):
        read_hu(dataset)


def test_a_colour_screen_is_named(shared_data: Path) -> None:
    with pytest.raises(Permanent) as caught:
        read_hu(shared_data / "philips_study" / "S4010_I50.dcm")
    assert caught.value.figures == {"samples_per_pixel": 3, "number_of_frames": 1}


def test_an_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    path = write(ct_dataset(), tmp_path / "a.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.1\0", 1))
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.figures["transfer_syntax_uid"] == "1.2.840.10008.1.9.1"


# --- volumes -----------------------------------------------------------------------------------------------------


def test_a_volume_carries_its_geometry_and_its_heartbeat(tmp_path: Path) -> None:
    paths = ct_stack(tmp_path, thickness=4.0, tilt_deg=15.0, pixel_spacing=(0.5, 0.4))
    outcome = check_stack(
        [read_header(path) for path in reversed(paths)], GeometrySettings(min_coverage_mm=90), pixel_digest=str
    )
    beats: list[tuple[int, int]] = []
    volume = load_volume(outcome.headers, on_slice=lambda done, total: beats.append((done, total)))
    assert volume.hu.shape == (24, 16, 16)
    assert volume.hu.dtype == np.float32
    assert beats == [(k, 24) for k in range(1, 25)]
    assert volume.spacing_mm == (0.5, 0.4)
    np.testing.assert_array_equal(volume.thickness_mm, np.full(24, 4.0))
    np.testing.assert_allclose(volume.orientation @ volume.orientation.T, np.eye(2), atol=1e-7)
    normal = np.cross(*volume.orientation)
    np.testing.assert_allclose(np.diff(volume.positions_mm @ normal), 4.0, atol=1e-5)
    for path, hu in zip(paths, volume.hu, strict=True):
        np.testing.assert_array_equal(hu, read_hu(path))


def test_an_unknown_thickness_is_the_distance_along_the_normal(tmp_path: Path) -> None:
    headers = [read_header(path) for path in ct_stack(tmp_path, n=5, thickness=4.0, tilt_deg=20.0, SliceThickness=None)]
    np.testing.assert_allclose(load_volume(headers).thickness_mm, 4.0, atol=1e-5)


def test_what_the_gate_would_not_let_through_is_an_error_of_the_caller(tmp_path: Path) -> None:
    header = read_header(ct_stack(tmp_path, n=1)[0])
    broken = [[], [replace(header, rows=None)], [replace(header, image_position_patient=None)]]
    for headers in broken:
        with pytest.raises(ValueError, match="slice"):
            load_volume(headers)


def test_pixels_of_another_size_than_announced(tmp_path: Path) -> None:
    first, second = (read_header(path) for path in ct_stack(tmp_path, n=2))
    write(ct_dataset(1, rows=8, columns=8), second.path)
    with pytest.raises(Permanent, match="size of the stack"):
        load_volume([first, second])


def test_the_real_head_as_a_volume(shared_data: Path) -> None:
    headers = [read_header(path) for path in sorted((shared_data / "ge_head_ct").iterdir())]
    outcome = check_stack(headers, GeometrySettings(), pixel_digest=pixel_digest)
    volume = load_volume(outcome.headers)
    assert volume.hu.shape == (28, 512, 512)
    assert volume.hu.min() == -1024
    assert volume.thickness_mm.tolist() == [4.0] * 14 + [7.0] * 14
