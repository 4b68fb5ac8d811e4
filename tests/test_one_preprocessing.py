"""One preprocessing: a volume gives the network the same tensors through the node's door and through training's.

Left out: registration of diffusion images, which the phantom does not need.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import pixel_digest
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import read_header
from dicom_node.synthesize.pipeline import load_ct_volume
from jmmda_model.imaging.context import ct_channels
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.grid import NetworkInput, to_network_grid
from jmmda_model.imaging.intensity import mask_channels
from jmmda_model.imaging.mask import brain_mask
from train.data.cache import HU_STEP, CachedCase
from train.data.dataset import case_planes
from train.data.phantom import generate_case
from train.data.phantom_cache import CaseKey, build_case
from train.data.phantom_dicom import write_ct_series
from train.recipe import DataRecipe

#: With all that a slice can be shown with: neighbours, mirror image, asymmetry.
CONTRACT = PreprocessingContract(neighbours=1, mirror=True, asymmetry_mm=(7.0, 12.0))
KEY = CaseKey(split="train", centre="A", seed=4)
DATA = DataRecipe(train={"A": 1}, validation={}, test={}, matrix=160, n_slices=24)


@pytest.fixture(scope="module")
def by_training(tmp_path_factory: pytest.TempPathFactory) -> CachedCase:
    return build_case(KEY, DATA, CONTRACT, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=["HFS", "FFP", "HFS_FLIPPED"])
def by_the_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NetworkInput:
    folder: Path = tmp_path_factory.mktemp("dicom") / "ct"
    case = generate_case(
        KEY.seed, KEY.centre, matrix=DATA.matrix, fov_mm=DATA.fov_mm, n_slices=DATA.n_slices, slice_mm=DATA.slice_mm
    )
    write_ct_series(case, folder, orientation=request.param)
    headers = [read_header(path) for path in folder.glob("*.dcm")]
    outcome = check_stack(headers, GeometrySettings(), pixel_digest=pixel_digest)
    volume = load_ct_volume(outcome.headers)
    return to_network_grid(volume, brain_mask(volume), CONTRACT)


def _in_same_order(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Slices of a feet-first stack run the other way along the patient; compare like with like."""
    forward = np.abs(found - wanted).mean()
    backward = np.abs(found[::-1] - wanted).mean()
    return found if forward <= backward else found[::-1]


def _trained_on(case: CachedCase) -> np.ndarray:
    return ct_channels(case_planes(case, np.arange(len(case.hu)), CONTRACT), CONTRACT)


def test_both_doors_give_the_same_ct_channels(by_training: CachedCase, by_the_node: NetworkInput) -> None:
    trained_on = _trained_on(by_training)
    seen = _in_same_order(by_the_node.ct, trained_on)
    assert seen.dtype == trained_on.dtype == np.float32
    own = len(CONTRACT.windows_hu) + 2 * CONTRACT.neighbours
    # The cache keeps HU in steps of 1/16; the narrowest window makes that step largest in the channel's unit.
    narrowest_hu = min(upper - lower for lower, upper in (*CONTRACT.windows_hu, CONTRACT.context_window_hu))
    atol = 2.0 * (HU_STEP / 2 + 1e-3) / narrowest_hu
    np.testing.assert_allclose(seen[:, :own], trained_on[:, :own], atol=atol, rtol=0)
    # Mirror image and asymmetry: the line is found on the mask, which differs by pixels in a flipped stack.
    brain = np.asarray(by_training.brain) > 0
    for channel in range(own, CONTRACT.ct_channel_count):
        assert np.abs(seen[:, channel] - trained_on[:, channel])[brain].mean() < 0.02


def test_both_doors_give_the_same_mask_channels(by_training: CachedCase, by_the_node: NetworkInput) -> None:
    trained_on = mask_channels(np.asarray(by_training.brain), CONTRACT)
    seen = _in_same_order(by_the_node.mask, trained_on)
    brain_differs = np.count_nonzero(seen[:, 0] != trained_on[:, 0])
    # The mask is found on the stack as it is stored; rays through a flipped stack round the other way, which turns
    # single pixels of the edge. In the orientation of training nothing may differ.
    placement = by_the_node.placement
    if not (placement.transpose or placement.flip_rows or placement.flip_columns):
        np.testing.assert_array_equal(seen[:, 0], trained_on[:, 0])
        np.testing.assert_allclose(seen, trained_on, rtol=0, atol=1e-6)
    else:
        assert brain_differs <= 5e-4 * np.count_nonzero(trained_on[:, 0])
