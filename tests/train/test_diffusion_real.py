"""Real diffusion series of three makers: values and places compared with what does not go through this reader.

Values are compared with a plain reading by pydicom, the geometry of the Siemens mosaic with the slice centres of the
scanner's own protocol. Leaves out everything that needs a made-up header (`test_diffusion_read`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from diffusion_cases import read, refused, values

from train.data.diffusion import DiffusionVolumes


def test_real_mosaic_lies_where_the_protocol_planned_it(shared_data: Path) -> None:
    found = read(shared_data / "siemens_mosaic")
    ds = pydicom.dcmread(shared_data / "siemens_mosaic" / "0005.dcm")
    # The protocol text in the series header lists the centre of every slice; the reader never looks at it.
    protocol = bytes(ds[0x0029, 0x1020].value).split(b"### ASCCONV BEGIN", 1)[1].decode("latin-1")
    planned = np.zeros((25, 3))
    pattern_ = r"sSliceArray\.asSlice\[(\d+)\]\.sPosition\.d(Sag|Cor|Tra)\s*=\s*(-?[\d.]+)"
    for number, axis, value in re.findall(pattern_, protocol):
        planned[int(number), ("Sag", "Cor", "Tra").index(axis)] = float(value)
    columns, rows, slices = found.dwi.GetSize()
    assert (columns, rows, slices) == (128, 128, 25)
    centres = [
        found.dwi.TransformContinuousIndexToPhysicalPoint((columns / 2, rows / 2, float(k))) for k in range(slices)
    ]
    np.testing.assert_allclose(centres, planned, atol=1e-3)
    # Row 3, column 2 of the mosaic is slice 17.
    whole = np.mean(
        [pydicom.dcmread(path).pixel_array for path in sorted((shared_data / "siemens_mosaic").iterdir())[1:]], axis=0
    )
    np.testing.assert_allclose(values(found.dwi)[17], whole[384:512, 256:384], rtol=1e-6)
    assert (found.b_value, found.n_directions) == (1000.0, 4)


@pytest.fixture(scope="module")
def canon(shared_data: Path) -> DiffusionVolumes:
    """The real series of Canon, read once."""
    return read(shared_data / "toshiba_dwi")


def test_real_canon_series_is_the_mean_of_three_directions(canon: DiffusionVolumes, shared_data: Path) -> None:
    found = canon
    by_place: dict[float, list[np.ndarray]] = {}
    for path in (shared_data / "toshiba_dwi").iterdir():
        ds = pydicom.dcmread(path)
        if "DiffusionBValue" in ds:
            by_place.setdefault(float(ds.ImagePositionPatient[2]), []).append(ds.pixel_array)
    assert {len(images) for images in by_place.values()} == {3}
    plain = np.stack([np.mean(by_place[z], axis=0) for z in sorted(by_place)])
    np.testing.assert_allclose(values(found.dwi), plain, rtol=1e-6)
    assert found.dwi.GetSpacing() == pytest.approx((3.0, 3.0, 3.0), abs=1e-6)
    assert (found.b_value, found.n_directions) == (1500.0, 3)
    # Fluid is bright without weighting and dark with it.
    fluid = values(found.b0) > np.percentile(values(found.b0), 99.0)
    assert values(found.dwi)[fluid].mean() < 0.4 * values(found.b0)[fluid].mean()


def test_guess_finds_a_weighted_volume_of_the_real_series(
    canon: DiffusionVolumes, shared_data: Path, tmp_path: Path
) -> None:
    # Slices 16 to 24 of b = 0 (files 1 to 40) and of the first direction, without anything that tells which is which.
    for number in (*range(17, 26), *range(57, 66)):
        ds = pydicom.dcmread(shared_data / "toshiba_dwi" / f"{number:04d}.dcm")
        for keyword in ("DiffusionBValue", "DiffusionGradientOrientation"):
            if keyword in ds:
                del ds[keyword]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION"]
        ds.save_as(tmp_path / f"{number}")
    assert refused(tmp_path).code == "no_b_value"
    guessed = read(tmp_path, guess_without_b_value=True)
    np.testing.assert_allclose(values(guessed.b0), values(canon.b0)[16:25])
    assert np.corrcoef(values(guessed.dwi).ravel(), values(canon.dwi)[16:25].ravel())[0, 1] > 0.95


def test_real_oblique_ge_series(shared_data: Path) -> None:
    found = read(shared_data / "ge_dwi")
    assert (found.b_value, found.n_directions) == (1000.0, 6)
    for ds in (pydicom.dcmread(path) for path in (shared_data / "ge_dwi").iterdir()):
        position = [float(value) for value in ds.ImagePositionPatient]
        index = found.dwi.TransformPhysicalPointToContinuousIndex(position)
        np.testing.assert_allclose(index, np.rint(index), atol=2e-3)
        assert tuple(np.rint(index[:2])) == (0.0, 0.0)
