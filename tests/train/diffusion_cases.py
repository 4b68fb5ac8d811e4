"""Small MR data sets as different makers write them, for the tests of `train.data.diffusion`. Identities are invented.

Images are 8 x 8 px. Slice k of a volume lies at z = 4 k mm. Private elements carry the numbers and creators that the
makers document; the pixel values are chosen by each test, so that a mean can be told from its parts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from tests.dicom_node.dicom.builders import ct_dataset, uid, write
from train.data.diffusion import DiffusionError, DiffusionVolumes, find_series, read_diffusion

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
SIZE = 8
STEP_MM = 4.0


def pattern(level: float) -> np.ndarray:
    """An image whose values are all near `level`, none equal to its neighbour."""
    return (np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 7 + int(level)).astype(np.uint16)


def mr_dataset(
    number: int,
    *,
    z_mm: float,
    b_value: float | None = None,
    direction: Sequence[float] | None = None,
    level: float = 100,
    pixels: np.ndarray | None = None,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "DIFFUSION"),
    series: str = "dwi",
    **attributes: object,
) -> Dataset:
    """A classic MR image; b value and direction go into the standard attributes."""
    ds = ct_dataset(
        number,
        position=(-14.0, -16.0, z_mm),
        thickness=STEP_MM,
        pixel_spacing=(2.0, 3.0),
        pixels=pattern(level) if pixels is None else pixels,
        series=series,
    )
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.Modality = "MR"
    ds.ImageType = list(image_type)
    ds.SeriesDescription = "ep2d"
    for keyword in ("RescaleIntercept", "RescaleSlope", "KVP", "ConvolutionKernel"):
        del ds[keyword]
    if b_value is not None:
        ds.DiffusionBValue = float(b_value)
    if direction is not None:
        ds.DiffusionGradientOrientation = [float(value) for value in direction]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def private(ds: Dataset, group: int, creator: str, element: int, vr: str, value: object) -> Dataset:
    """Put a private element into the block of its creator."""
    ds.private_block(group, creator, create=True).add_new(element, vr, value)
    return ds


def write_volumes(
    folder: Path,
    volumes: Sequence[tuple[float | None, Sequence[float] | None, float]],
    n_slices: int = 3,
    **more: object,
) -> list[Path]:
    """Write a classic series of volumes (b value, direction, level), volume by volume, one file a slice."""
    paths = []
    for v, (b_value, direction, level) in enumerate(volumes):
        for k in range(n_slices):
            number = v * n_slices + k
            ds = mr_dataset(
                number, z_mm=STEP_MM * k, b_value=b_value, direction=direction, level=level + 10 * k, **more
            )
            paths.append(write(ds, folder / f"v{v}-s{k}"))
    return paths


def csa_bytes(entries: Mapping[str, Sequence[str]], *, second: bool = True) -> bytes:
    """A CSA header of the second (``SV10``) or the first kind; empty items fill up to six, as the scanner does."""
    out = b"SV10\4\3\2\1" if second else b""
    out += struct.pack("<II", len(entries), 77)
    first_items = 6
    for name, values in entries.items():
        n_items = max(6, len(values))
        out += struct.pack("<64si4siii", name.encode(), len(values), b"FD\0\0", 4, n_items, 77)
        for k in range(n_items):
            text = values[k].encode() + b"\0" if k < len(values) else b""
            length = len(text) if second else len(text) + first_items
            out += struct.pack("<4i", length, len(text), 77, len(text))
            out += text + b"\0" * (-len(text) % 4)
    return out


def mosaic_dataset(
    n: int, *, csa: bytes, position: Sequence[float], pixels: np.ndarray, **attributes: object
) -> Dataset:
    """A Siemens mosaic of n tiles; (0019,xx0A) is left out, the CSA header must do."""
    ds = mr_dataset(
        n,
        z_mm=0.0,
        pixels=pixels,
        image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "MOSAIC"),
        **attributes,
    )
    ds.Manufacturer = "SIEMENS"
    ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
    ds.SpacingBetweenSlices = f"{STEP_MM:g}"
    return private(ds, 0x0029, "SIEMENS CSA HEADER", 0x10, "OB", csa)


def item(**attributes: object) -> Dataset:
    """An item of a sequence."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def enhanced_dataset(
    frames: Sequence[tuple[float, float, str, Sequence[float] | None, float]], **attributes: object
) -> Dataset:
    """Enhanced MR of frames (z in mm, b value, directionality, direction, level); frame type and rescale per frame.

    Orientation and pixel measures are shared, all else stands in the groups of the frames.
    """
    pixels = np.stack([pattern(level) for *_, level in frames])
    ds = mr_dataset(0, z_mm=0.0, pixels=pixels[0], **attributes)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del ds[keyword]
    ds.SOPClassUID = ENHANCED_MR_STORAGE
    ds.SOPInstanceUID = uid("enhanced", len(frames))
    ds.NumberOfFrames = len(frames)
    ds.PixelData = pixels.tobytes()
    shared = item(
        PlaneOrientationSequence=DicomSequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=DicomSequence([item(PixelSpacing=[2.0, 3.0], SliceThickness=STEP_MM)]),
    )
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    groups = []
    for z_mm, b_value, directionality, direction, _ in frames:
        diffusion = item(DiffusionBValue=float(b_value), DiffusionDirectionality=directionality)
        if direction is not None:
            gradient = item(DiffusionGradientOrientation=[float(value) for value in direction])
            diffusion.DiffusionGradientDirectionSequence = DicomSequence([gradient])
        groups.append(
            item(
                PlanePositionSequence=DicomSequence([item(ImagePositionPatient=[-14.0, -16.0, z_mm])]),
                PixelValueTransformationSequence=DicomSequence([item(RescaleSlope=2, RescaleIntercept=1)]),
                MRDiffusionSequence=DicomSequence([diffusion]),
            )
        )
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    return ds


# --- what comes out --------------------------------------------------------------------------------------------------


def read(folder: Path, **options: object) -> DiffusionVolumes:
    """Read the only series of a folder."""
    (series,) = find_series(folder)
    return read_diffusion(series, **options)  # type: ignore[arg-type]


def refused(folder: Path, **options: object) -> DiffusionError:
    """Why the only series of a folder is refused."""
    with pytest.raises(DiffusionError) as caught:
        read(folder, **options)
    return caught.value


def expected(level: float, n_slices: int = 3) -> np.ndarray:
    """What `write_volumes` writes for one volume."""
    return np.stack([pattern(level + 10 * k) for k in range(n_slices)]).astype(np.float32)


def values(image: sitk.Image | None) -> np.ndarray:
    """Values of an image that must be there, shape (slices, rows, columns)."""
    assert image is not None
    return np.asarray(sitk.GetArrayFromImage(image))
