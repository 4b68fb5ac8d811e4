"""Brain mask on drawn heads and on what is no head: truth is known, every failure has its flag.

Left out: real scans (`test_mask_real`). The drawn head is simple on purpose: what must not depend on anatomy is
tested here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from jmmda_model.imaging import (
    AIR_HU,
    ImagingError,
    PreprocessingContract,
    brain_mask,
    ensure_eligible,
    to_network_grid,
)
from jmmda_model.imaging.defect import N_RAYS, outline_across_gaps, within_outline
from jmmda_model.imaging.enclosure import N_DIRECTIONS, enclosure_count
from jmmda_model.imaging.morphology import morphology
from tests.jmmda_model.imaging_cases import ORIENTATIONS, Lattice, dice, ellipsoid, head_hu, part, tilted

WHOLE = {"shape": (32, 128, 128), "spacing_mm": (1.8, 1.8), "centre_mm": (0.0, 0.0, -5.0)}


def drawn(orientation=ORIENTATIONS["HFS"], **changes):
    lattice = Lattice(orientation, **(WHOLE | changes))
    points = lattice.points()
    hu, brain = head_hu(points)
    return lattice.volume(hu), brain, points


def visible(volume, brain):
    """The brain that is not hidden by partial volume with bone."""
    smooth = ndimage.gaussian_filter(np.clip(volume.hu, -1024, 2000), (0, 0.6 / 1.8, 0.6 / 1.8))
    return brain & (smooth < 120)


@pytest.mark.parametrize("name", ["HFS", "HFP", "FFS", "FFP", "decubitus", "transposed"])
def test_finds_the_brain_in_every_orientation(name):
    volume, brain, _ = drawn(ORIENTATIONS[name])
    found = brain_mask(volume)
    assert dice(found.mask, brain) > 0.975
    assert found.flags == ()
    assert found.volume_ml == pytest.approx(volume.volume_ml(brain), rel=0.04)
    ensure_eligible(found)


@pytest.mark.parametrize("degrees", [-25, 20])
def test_finds_the_brain_in_a_tilted_stack(degrees):
    volume, brain, _ = drawn(tilted(degrees), shape=(40, 128, 160))
    assert dice(brain_mask(volume).mask, visible(volume, brain)) > 0.97


def test_calcification_and_ventricles_are_brain_and_scalp_and_neck_are_not():
    volume, _, points = drawn()
    found = brain_mask(volume).mask
    assert found[ellipsoid(points, (5, 4, 4), (12, 14, 8)) < 1].all()
    assert found[ellipsoid(points, (14, 30, 14), (0, -5, 8)) < 1].all()
    scalp = (ellipsoid(points, (82, 100, 84), (0, 0, 0)) < 1) & (ellipsoid(points, (77, 95, 79), (0, 0, 0)) > 1)
    assert not found[scalp].any()
    assert not found[(points[..., 2] < -75)].any()


def test_noise_of_15_hu_changes_little():
    volume, _, _ = drawn()
    noisy = part(volume, slice(None), volume.hu + np.random.default_rng(5).normal(0, 15, volume.hu.shape))
    assert dice(brain_mask(noisy).mask, brain_mask(volume).mask) > 0.985


def test_a_headrest_is_neither_skull_nor_brain():
    volume, _, points = drawn()
    rest = np.abs(np.hypot(points[..., 0], points[..., 1]) - 108) < 4
    hu = np.where(rest & (points[..., 1] > -20), 400, volume.hu)
    assert dice(brain_mask(part(volume, slice(None), hu)).mask, brain_mask(volume).mask) > 0.999


@pytest.mark.parametrize(("kept", "flagged"), [(slice(11, None), True), (slice(0, 22), True), (slice(2, None), False)])
def test_a_stack_that_ends_inside_the_brain_is_flagged(kept, flagged):
    volume, brain, _ = drawn()
    found = brain_mask(part(volume, kept))
    assert ("cut_off_scan" in found.flags) is flagged
    assert dice(found.mask, brain[kept]) > 0.97


def test_an_open_vault_is_flagged_and_its_brain_given_back():
    volume, brain, points = drawn()
    hole = (np.hypot(points[..., 1] - 10, points[..., 2] - 15) < 28) & (points[..., 0] > 30) & (volume.hu > 100)
    found = brain_mask(part(volume, slice(None), np.where(hole, 42, volume.hu)))
    assert "open_skull" in found.flags
    assert found.figures["defect_ml"] > 10
    assert dice(found.mask, brain) > 0.97


def test_a_burr_hole_is_no_open_skull():
    volume, _, points = drawn()
    hole = (np.hypot(points[..., 1], points[..., 2] - 15) < 6) & (points[..., 0] > 30) & (volume.hu > 100)
    assert brain_mask(part(volume, slice(None), np.where(hole, 42, volume.hu))).flags == ()


def test_an_unusual_size_is_flagged_but_not_refused():
    lattice = Lattice(ORIENTATIONS["HFS"], **WHOLE)
    hu, _ = head_hu(lattice.points() / 0.78)
    found = brain_mask(lattice.volume(hu))
    assert found.flags == ("volume",)
    ensure_eligible(found)


def no_heads():
    volume, _, points = drawn()
    rng = np.random.default_rng(0)
    shape = volume.hu.shape
    skull = ellipsoid(points, (76, 94, 78), (0, 0, 0)) < 1
    hollow = skull & (ellipsoid(points, (69, 87, 71), (0, 0, 0)) > 1)
    return {
        "air": np.full(shape, AIR_HU),
        "water": np.zeros(shape),
        "noise": rng.normal(0, 400, shape),
        "empty skull": np.where(hollow, 1000.0, AIR_HU),
        "skull full of water": np.where(hollow, 1000.0, np.where(skull, rng.normal(0, 3, shape), AIR_HU)),
        "rescale forgotten": np.maximum(volume.hu + 1024, 0),
        "windowed to 0-80": np.clip(volume.hu, 0, 80),
        "inverted": -volume.hu,
    }


@pytest.mark.parametrize("name", sorted(no_heads()))
def test_what_holds_no_brain_is_refused(name):
    volume, _, _ = drawn()
    found = brain_mask(part(volume, slice(None), no_heads()[name]))
    assert found.flags == ("no_brain",)
    assert not found.mask.any()
    with pytest.raises(ImagingError) as caught:
        ensure_eligible(found)
    assert caught.value.code == "no_brain"


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 8, 15, 20, 31])
def test_a_few_slices_never_crash_and_the_middle_ones_have_brain(n, first):
    volume, brain, _ = drawn()
    few = slice(first, first + n)
    found = brain_mask(part(volume, few))
    assert found.mask.shape == (min(n, 32 - first), 128, 128)
    if first == 15:
        assert dice(found.mask, brain[few]) > 0.97
    if first == 31:
        assert found.flags == ("no_brain",)


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 3, 200), (3, 7, 7)])
def test_tiny_frames_never_crash(shape):
    lattice = Lattice(ORIENTATIONS["HFS"], shape=shape)
    assert brain_mask(lattice.volume(np.full(shape, 40.0))).flags == ("no_brain",)


@pytest.mark.parametrize("kept", [slice(None), slice(14, 15), slice(12, 14)])
def test_both_backends_agree(kept):
    volume, _, _ = drawn(tilted(12))
    fast, plain = (brain_mask(part(volume, kept), backend=backend).mask for backend in ("opencv", "scipy"))
    assert dice(fast, plain) >= 0.995


def test_works_with_numpy_and_scipy_alone_and_gives_the_same_mask():
    code = (
        "import sys\n"
        "for name in ('cv2', 'cc3d', 'SimpleITK', 'torch', 'pydicom', 'skimage'): sys.modules[name] = None\n"
        "sys.path.insert(0, '.')\n"
        "import numpy as np\n"
        "from jmmda_model.imaging import *\n"
        "arrays = np.load(sys.argv[1])\n"
        "volume = CtVolume(arrays['hu'], arrays['positions'], arrays['orientation'], (1.8, 1.8), arrays['thickness'])\n"
        "mask = brain_mask(volume)\n"
        "net = to_network_grid(volume, mask, PreprocessingContract())\n"
        "np.savez(sys.argv[2], mask=mask.mask, ct=net.ct, channels=net.mask)\n"
    )
    volume, _, _ = drawn()
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            source,
            hu=volume.hu,
            positions=volume.positions_mm,
            orientation=volume.orientation,
            thickness=volume.thickness_mm,
        )
        subprocess.run([sys.executable, "-c", code, str(source), str(result)], check=True, cwd=root)
        with np.load(result) as got:
            mask = brain_mask(volume, backend="opencv")
            assert dice(got["mask"], mask.mask) >= 0.995
            net = to_network_grid(volume, mask, PreprocessingContract())
            np.testing.assert_allclose(got["ct"], net.ct, atol=1e-6)
            assert np.mean(np.abs(got["channels"] - net.mask)) < 1e-3


def test_enclosure_of_a_closed_ring_an_open_ring_and_a_wall():
    ring = np.zeros((1, 61, 61), dtype=bool)
    rows, columns = np.mgrid[-30:31, -30:31]
    radius = np.hypot(rows, columns)
    ring[0] = (radius > 20) & (radius < 24)
    assert enclosure_count(ring)[0, 30, 30] == N_DIRECTIONS
    assert enclosure_count(ring)[0, 30, 57] <= N_DIRECTIONS // 2
    half = ring & (columns >= 0)
    assert N_DIRECTIONS // 2 - 1 <= enclosure_count(half)[0, 30, 30] <= N_DIRECTIONS // 2 + 1
    wall = np.zeros((1, 21, 21), dtype=bool)
    wall[0, 0] = True
    count = enclosure_count(wall)
    assert count[0, 10, 10] <= 5
    np.testing.assert_array_equal(count, count[:, :, ::-1])


def test_enclosure_turns_with_the_picture():
    bone = np.random.default_rng(4).random((2, 33, 33)) > 0.9
    count = enclosure_count(bone)
    for turns in (1, 2, 3):
        turned = np.rot90(enclosure_count(np.rot90(bone, turns, (1, 2))), -turns, (1, 2))
        assert np.abs(turned.astype(int) - count).max() <= 4  # digital lines differ by a pixel
        assert np.mean(turned == count) > 0.6


def test_the_outline_is_bridged_by_an_arc():
    rows, columns = np.mgrid[-50:51, -50:51]
    radius = np.hypot(rows, columns)
    ring = (radius > 40) & (radius < 45)
    assert outline_across_gaps(ring, (50.0, 50.0)) is None
    gap = ring & ~((columns > 0) & (np.abs(rows) < 25))
    outline = outline_across_gaps(gap, (50.0, 50.0))
    assert outline is not None
    assert outline.shape == (N_RAYS,)
    assert np.abs(outline - 40.5).max() < 2
    inside = within_outline((101, 101), (50.0, 50.0), outline)
    assert inside[50, 50 + 37]
    assert not inside[50, 50 + 42]
    assert outline_across_gaps(ring & (columns > 20), (50.0, 50.0)) is None


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.5, 5.0])
def test_disk_morphology_equals_scipys_with_the_same_disk(radius):
    mask = ndimage.binary_dilation(np.random.default_rng(7).random((2, 40, 50)) > 0.97, np.ones((1, 4, 4)))
    reach = int(radius)
    axis = np.arange(-reach, reach + 1)
    disk = (np.hypot(axis[:, None], axis[None, :]) <= radius)[None]
    for backend in ("opencv", "scipy"):
        tools = morphology(backend)
        np.testing.assert_array_equal(tools.dilate(mask, radius), ndimage.binary_dilation(mask, disk))
        np.testing.assert_array_equal(tools.erode(mask, radius), ndimage.binary_erosion(mask, disk, border_value=1))
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
        np.testing.assert_array_equal(tools.fill_holes(mask), filled)
        labels, count = ndimage.label(mask)
        sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
        np.testing.assert_array_equal(tools.largest(mask), labels == 1 + int(np.argmax(sizes)))
