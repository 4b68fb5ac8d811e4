"""Brain mask on real scans and on the phantom.

Real: a tilted head CT with two slice thicknesses, a whole head and neck at 1 mm, an empty skull. The template's mask is
an atlas's opinion, good to about 0.96, not a truth. Phantom numbers are phantom numbers. Left out: lesions of the
skull base, metal, children; there is no public scan of these in the test data.
"""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from benchmarks.mask_template import template_brain
from jmmda_model.imaging import (
    CtVolume,
    ImagingError,
    PreprocessingContract,
    brain_mask,
    ensure_eligible,
    from_network_grid,
    to_network_grid,
)
from tests.jmmda_model.imaging_cases import dice, part, read_series


@pytest.fixture(scope="module")
def ge_head(shared_data):
    """28 slices of 512 x 512, tilt 18.5 degrees, 4 mm then 7 mm slices, one gap of 1.08 mm."""
    return read_series(shared_data / "ge_head_ct", "*.dcm")


@pytest.fixture(scope="module")
def ge_brain(ge_head):
    return brain_mask(ge_head)


@pytest.fixture(scope="module")
def whole_head(shared_data):
    """Head and neck at 1 mm, 8 bit, dental streaks."""
    path = shared_data / "mricrogl_head_ct" / "ct.nii.gz"
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    hu = sitk.GetArrayFromImage(image) / 0.352 * 1036 - 1000
    step = np.array([[0.0, 0.0, image.GetSpacing()[2]]])
    positions = np.array(image.GetOrigin()) + np.arange(len(hu))[:, None] * step
    spacing = image.GetSpacing()
    return CtVolume(hu, positions, np.eye(3)[:2], (spacing[1], spacing[0]), np.full(len(hu), spacing[2]))


def visible(volume, brain):
    """The brain that partial volume with bone leaves visible: below 120 HU after smoothing by 0.6 mm."""
    sigma = 0.6 / volume.spacing_mm[0]
    return brain & (ndimage.gaussian_filter(np.clip(volume.hu, -1024, 2000), (0, sigma, sigma)) < 120)


def test_ge_head_has_its_known_volume_and_no_flag(ge_head, ge_brain):
    assert ge_brain.flags == ()
    assert ge_brain.volume_ml == pytest.approx(1496, rel=0.01)
    assert ge_brain.volume_ml == pytest.approx(ge_head.volume_ml(ge_brain.mask))
    assert 28 <= ge_brain.figures["median_hu"] <= 36
    ensure_eligible(ge_brain)


def test_ge_brain_runs_from_the_foramen_magnum_to_the_vertex_without_a_gap(ge_brain):
    with_brain = np.flatnonzero(ge_brain.mask.any(axis=(1, 2)))
    assert (with_brain[0], with_brain[-1]) == (5, 26)
    assert with_brain.size == 22


def test_ge_mask_keeps_off_bone_fat_and_air(ge_head, ge_brain):
    smooth = ndimage.gaussian_filter(ge_head.hu, (0, 1.2, 1.2))
    inside = smooth[ge_brain.mask]
    assert np.mean(inside > 200) < 0.004  # calcified plexus, falx and dorsum sellae
    assert np.mean(inside < -30) < 0.001


def test_ge_mask_is_smooth_and_its_sections_are_whole(ge_brain):
    for plane in ge_brain.mask[ge_brain.mask.any(axis=(1, 2))]:
        _, parts = ndimage.label(plane)
        assert parts <= 4  # two temporal poles, frontal base and posterior fossa
        opened = ndimage.binary_opening(plane, np.hypot(*np.mgrid[-2:3, -2:3]) <= 2)
        assert np.count_nonzero(plane & ~opened) < 0.002 * np.count_nonzero(plane) + 20


def test_ge_mask_is_the_same_from_both_backends(ge_head, ge_brain):
    assert dice(brain_mask(ge_head, backend="scipy").mask, ge_brain.mask) >= 0.995


def test_ge_mask_survives_noise_offset_and_gain(ge_head, ge_brain):
    noise = np.random.default_rng(0).normal(0, 15, ge_head.hu.shape)
    for hu in (ge_head.hu + noise, ge_head.hu - 10, ge_head.hu + 10, ge_head.hu * 0.95):
        assert dice(brain_mask(part(ge_head, slice(None), hu)).mask, ge_brain.mask) > 0.995


@pytest.mark.parametrize("kept", [slice(8, None), slice(12, None), slice(0, 20)])
def test_a_cut_off_ge_head_is_flagged_and_keeps_its_mask(ge_head, ge_brain, kept):
    found = brain_mask(part(ge_head, kept))
    assert "cut_off_scan" in found.flags
    assert dice(found.mask, ge_brain.mask[kept]) > 0.995


@pytest.mark.parametrize("kept", [slice(15, 16), slice(20, 22), slice(24, 26)])
def test_one_or_two_slices_of_the_vault_give_the_same_mask(ge_head, ge_brain, kept):
    assert dice(brain_mask(part(ge_head, kept)).mask, ge_brain.mask[kept]) > 0.99


def test_neck_alone_and_forgotten_rescale_are_refused(ge_head, whole_head):
    necks = part(ge_head, slice(0, 5)), part(whole_head, slice(0, 70))
    for volume in (*necks, part(ge_head, slice(None), np.maximum(ge_head.hu + 1024, 0))):
        with pytest.raises(ImagingError) as caught:
            ensure_eligible(brain_mask(volume))
        assert caught.value.code == "no_brain"


def test_ge_head_goes_to_the_grid_and_back(ge_head, ge_brain):
    contract = PreprocessingContract()
    net = to_network_grid(ge_head, ge_brain, contract)
    assert net.ct.shape == (28, 3, 256, 256)
    assert net.has_brain.sum() == 22
    assert net.source_slices[7] == (6, 7, 8)  # 4 mm slices become slab means of 5 mm
    assert net.source_slices[20] == (20,)
    out = from_network_grid(net.ct[:, 0], net, ge_brain, contract)
    assert not out[~ge_brain.mask].any()
    window = np.clip(ge_head.hu / 80, 0, 1) * 4095
    thick = np.zeros_like(ge_brain.mask)
    thick[15:27] = ge_brain.mask[15:27]
    assert abs(float(np.mean(out[thick] - window[thick]))) < 0.01 * 4095


def test_the_brain_stays_put_on_the_grid_of_the_tilted_head(ge_head, ge_brain):
    net = to_network_grid(ge_head, ge_brain, PreprocessingContract())
    rows = [np.nonzero(net.mask[index, 0])[0].mean() for index in range(15, 24)]
    assert np.ptp(rows) * 0.9 < 15  # by index the tilted gantry moves the head by 2.3 mm a slice


def test_an_empty_skull_is_refused(shared_data):
    volume = read_series(shared_data / "philips_study", "S2010*.dcm")
    found = brain_mask(volume)
    assert found.flags == ("no_brain",)
    with pytest.raises(ImagingError):
        ensure_eligible(found)


def test_whole_head_and_neck_gives_a_brain_without_pharynx(whole_head):
    found = brain_mask(whole_head)
    assert found.flags == ()
    assert 1300 < found.volume_ml < 1450
    first = np.flatnonzero(found.mask.any(axis=(1, 2)))[0]
    assert 70 <= first <= 82
    for index in range(82, 96):  # in front of the clivus lies muscle, enclosed by jaw and skull base
        rows = np.nonzero(found.mask[index])[0]
        assert rows.min() > 100


@pytest.mark.slow
def test_ge_mask_agrees_with_the_registered_template(ge_head, ge_brain, shared_data):
    template = template_brain(ge_head, shared_data / "ct_template")
    assert dice(ge_brain.mask, visible(ge_head, template)) > 0.95
    vault = slice(12, 24)
    assert dice(ge_brain.mask[vault], visible(ge_head, template)[vault]) > 0.965


@pytest.mark.parametrize("centre", ["A", "B", "C"])
def test_phantom_brain_is_found_at_every_centre(centre):
    from train.data.phantom import generate_case

    case = generate_case(11, centre, matrix=128)
    volume = case.ct_volume()
    found = brain_mask(volume)
    assert dice(found.mask, visible(volume, case.brain)) > 0.985
    assert dice(found.mask, case.brain) > 0.96
    assert found.flags == ()


def test_tilted_phantom_is_found():
    from train.data.phantom import generate_case

    case = generate_case(12, "A", matrix=128, tilt_deg=20.0, n_slices=28)
    volume = case.ct_volume()
    assert dice(brain_mask(volume).mask, visible(volume, case.brain)) > 0.985
