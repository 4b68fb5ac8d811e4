"""Stored values whose code stream, header and transfer syntax disagree, each from a real encoder.

Covers every combination of sign and depth with the lossless encoders of gdcm, OpenJPEG and CharLS, padding outside of
BitsStored, 8-bit big endian words, native data under a compressed transfer syntax and the reverse. Left out: real
slices (`test_pixels`), frames of Enhanced CT (`test_enhanced`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless

from dicom_node.dicom.pixels import read_hu
from dicom_node.errors import Permanent
from tests.dicom_node.dicom.builders import ct_dataset, write
from tests.dicom_node.dicom.encoders import GDCM_LOSSLESS, recode_with_gdcm, with_jpeg_2000, with_jpeg_ls

SHAPE = (40, 32)  # OpenJPEG wants enough for five levels of its wavelet


def _samples(dtype: type[np.integer], bits: int) -> np.ndarray:
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    values = np.random.default_rng(bits).integers(low, low + (1 << bits), SHAPE)
    values[0, :2] = low, low + (1 << bits) - 1
    return values.astype(dtype)


DEPTHS = [(np.uint8, 8), (np.uint16, 12), (np.int16, 12), (np.uint16, 16), (np.int16, 16)]


@pytest.mark.parametrize("syntax", GDCM_LOSSLESS)
@pytest.mark.parametrize(("dtype", "bits"), DEPTHS)
def test_every_depth_and_sign_through_every_lossless_encoder(
    tmp_path: Path, syntax: str, dtype: type[np.integer], bits: int
) -> None:
    samples = _samples(dtype, bits)
    plain = write(ct_dataset(pixels=samples, BitsStored=bits, HighBit=bits - 1), tmp_path / "plain.dcm")
    path = recode_with_gdcm(plain, tmp_path / "recoded.dcm", syntax)
    np.testing.assert_array_equal(read_hu(path), samples.astype(np.float32) - 1024)


@pytest.mark.parametrize("header_signed", [0, 1])
@pytest.mark.parametrize("stream_signed", [False, True])
@pytest.mark.parametrize("bits", [13, 16])
@pytest.mark.parametrize("stored", [13, 16])
def test_a_frame_is_signed_when_header_or_code_stream_says_so(
    tmp_path: Path, header_signed: int, stream_signed: bool, bits: int, stored: int
) -> None:
    if stored < bits:
        pytest.skip("a code stream deeper than BitsStored: the surplus is cut away, tested below")
    meant = np.random.default_rng(0).integers(-2000, 3000, SHAPE)
    if not header_signed and not stream_signed:
        meant += 2000
    samples = meant.astype(np.int16) if stream_signed else (meant & ((1 << bits) - 1)).astype(np.uint16)
    dataset = ct_dataset(
        pixels=samples, intercept=0, PixelRepresentation=header_signed, BitsStored=stored, HighBit=stored - 1
    )
    np.testing.assert_array_equal(read_hu(with_jpeg_2000(dataset, samples, tmp_path / "a.dcm", bits)), meant)


def test_padding_follows_the_sign_of_the_code_stream(tmp_path: Path) -> None:
    samples = np.full(SHAPE, 40, dtype=np.int16)
    samples[0] = -2000
    dataset = ct_dataset(pixels=samples, intercept=0, PixelRepresentation=0)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    hu = read_hu(with_jpeg_2000(dataset, samples, tmp_path / "a.dcm", 16))
    assert (hu[0] == -1024).all()
    assert (hu[1:] == 40).all()


def test_a_code_stream_deeper_than_bits_stored(tmp_path: Path) -> None:
    meant = np.random.default_rng(1).integers(-2000, 2000, SHAPE).astype(np.int16)
    dataset = ct_dataset(pixels=meant, intercept=0, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_hu(with_jpeg_2000(dataset, meant, tmp_path / "a.dcm", 16)), meant)


def test_jpeg_ls_holds_the_bits_of_signed_samples(tmp_path: Path) -> None:
    samples = _samples(np.int16, 16)
    path = with_jpeg_ls(ct_dataset(pixels=samples, intercept=0), samples, tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_hu(path), samples)


def test_the_mismatch_file_of_pydicom() -> None:
    # 13 bits of two's complement in a code stream that calls itself unsigned; the outermost pixels are -2000.
    path = get_testdata_file("J2K_pixelrep_mismatch.dcm")
    hu = read_hu(Path(str(path)))
    assert hu[0, 0] == -2000
    assert -2000 <= hu.min() <= hu.max() < 4096


# --- padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [0, 1])
def test_padding_that_bits_stored_cannot_hold(tmp_path: Path, signed: int) -> None:
    # 12 bits stored, and -2000 written over all 16: cut to 12 bits it would be a bright ring of 2096.
    cells = np.full(SHAPE, 1000, dtype=np.uint16)
    cells[0] = 63536
    dataset = ct_dataset(pixels=cells, intercept=-1024, BitsStored=12, HighBit=11, PixelRepresentation=signed)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    hu = read_hu(write(dataset, tmp_path / "a.dcm"))
    assert (hu[0] == -1024).all()
    assert (hu[1:] == -24).all()


def test_padding_written_as_the_bits_of_bits_stored(tmp_path: Path) -> None:
    cells = np.full(SHAPE, 100, dtype=np.int16)
    cells[0] = -2000
    dataset = ct_dataset(pixels=cells, intercept=0, BitsStored=12, HighBit=11)
    dataset.add_new("PixelPaddingValue", "US", -2000 & 0xFFF)
    hu = read_hu(write(dataset, tmp_path / "a.dcm"))
    assert (hu[0] == -1024).all()
    assert (hu[1:] == 100).all()


# --- transfer syntaxes that do not tell the truth ----------------------------------------------------------------


def test_native_pixels_under_a_compressed_transfer_syntax(tmp_path: Path) -> None:
    samples = _samples(np.uint16, 12)
    path = write(ct_dataset(pixels=samples), tmp_path / "a.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1))
    np.testing.assert_array_equal(read_hu(path), samples.astype(np.float32) - 1024)


def test_encapsulated_pixels_under_a_native_transfer_syntax_are_named(tmp_path: Path) -> None:
    samples = np.zeros(SHAPE, dtype=np.uint16)
    path = with_jpeg_ls(ct_dataset(pixels=samples), samples, tmp_path / "a.dcm")
    whole = path.read_bytes()
    old = JPEGLSLossless.encode() + b"\0" * (len(JPEGLSLossless) % 2)
    assert old in whole
    path.write_bytes(whole.replace(old, b"1.2.840.10008.1.2.1".ljust(len(old), b"\0"), 1))
    with pytest.raises(Permanent) as caught:
        read_hu(path)
    assert caught.value.code in {"pixel_data", "unreadable"}


def test_eight_bits_in_big_endian_words(tmp_path: Path) -> None:
    samples = _samples(np.uint8, 8)
    dataset = ct_dataset(pixels=samples, transfer_syntax=ExplicitVRBigEndian)
    dataset.PixelData = samples.reshape(-1, 2)[:, ::-1].tobytes()
    dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(read_hu(write(dataset, tmp_path / "a.dcm")), samples.astype(np.float32) - 1024)


def test_high_bits_of_big_endian_cells(tmp_path: Path) -> None:
    samples = _samples(np.uint16, 12)
    dataset = ct_dataset(
        pixels=(samples << 4).astype(np.uint16), transfer_syntax=ExplicitVRBigEndian, BitsStored=12, HighBit=15
    )
    np.testing.assert_array_equal(read_hu(write(dataset, tmp_path / "a.dcm")), samples.astype(np.float32) - 1024)


# --- values that are no Hounsfield units -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MGML", "Z_EFF", "ED", "PCT"])
def test_maps_of_other_quantities_are_named(kind: str) -> None:
    with pytest.raises(Permanent, match="RescaleType"):
        read_hu(ct_dataset(RescaleType=kind))


@pytest.mark.parametrize("kind", ["HU", "US", "", "hu"])
def test_hounsfield_units_by_any_name(kind: str) -> None:
    np.testing.assert_array_equal(read_hu(ct_dataset(RescaleType=kind)), read_hu(ct_dataset()))


def test_a_modality_lut_is_named() -> None:
    lut = ct_dataset()
    dataset = ct_dataset(RescaleSlope=None, RescaleIntercept=None, ModalityLUTSequence=[lut])
    with pytest.raises(Permanent, match="Modality LUT"):
        read_hu(dataset)


def test_a_palette_is_no_grey_image() -> None:
    with pytest.raises(Permanent, match="PhotometricInterpretation"):
        read_hu(ct_dataset(PhotometricInterpretation="PALETTE COLOR"))
