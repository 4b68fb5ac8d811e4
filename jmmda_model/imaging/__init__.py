"""The preprocessing contract: brain mask, grid there and back, intensities; one path for node and training."""

from __future__ import annotations

from jmmda_model.imaging.context import context_planes, ct_channels, neighbour_slices, regional_asymmetry
from jmmda_model.imaging.contract import CONTRACT_VERSION, PreprocessingContract
from jmmda_model.imaging.eligibility import EligibilityLimits, ensure_eligible, with_age
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.grid import (
    GridStack,
    NetworkInput,
    from_network_grid,
    to_grid_stack,
    to_network_grid,
)
from jmmda_model.imaging.intensity import (
    mask_channels,
    normalise_target,
    stored_values,
    target_reference,
    window_channels,
)
from jmmda_model.imaging.mask import BrainMask, brain_mask
from jmmda_model.imaging.placement import GridPlacement, place_grid, resample_from_grid, resample_to_grid
from jmmda_model.imaging.symmetry import SymmetryLine, mid_sagittal_line, mirror_slices
from jmmda_model.imaging.volume import AIR_HU, CtVolume

__all__ = [
    "AIR_HU",
    "CONTRACT_VERSION",
    "BrainMask",
    "CtVolume",
    "EligibilityLimits",
    "GridPlacement",
    "GridStack",
    "ImagingError",
    "NetworkInput",
    "PreprocessingContract",
    "SymmetryLine",
    "brain_mask",
    "context_planes",
    "ct_channels",
    "ensure_eligible",
    "from_network_grid",
    "mask_channels",
    "mid_sagittal_line",
    "mirror_slices",
    "neighbour_slices",
    "normalise_target",
    "place_grid",
    "regional_asymmetry",
    "resample_from_grid",
    "resample_to_grid",
    "stored_values",
    "target_reference",
    "to_grid_stack",
    "to_network_grid",
    "window_channels",
    "with_age",
]
