"""The preprocessing contract: brain mask, grid there and back, intensities; one path for node and training."""

from __future__ import annotations

from jmmda_model.imaging.contract import CONTRACT_VERSION, PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.grid import (
    GridStack,
    NetworkInput,
    from_network_grid,
    to_grid_stack,
    to_network_grid,
)
from jmmda_model.imaging.intensity import (
    ct_channels,
    mask_channels,
    normalise_target,
    stored_values,
    target_reference,
)
from jmmda_model.imaging.mask import BrainMask, brain_mask, ensure_eligible
from jmmda_model.imaging.placement import GridPlacement, place_grid, resample_from_grid, resample_to_grid
from jmmda_model.imaging.volume import AIR_HU, CtVolume

__all__ = [
    "AIR_HU",
    "CONTRACT_VERSION",
    "BrainMask",
    "CtVolume",
    "GridPlacement",
    "GridStack",
    "ImagingError",
    "NetworkInput",
    "PreprocessingContract",
    "brain_mask",
    "ct_channels",
    "ensure_eligible",
    "from_network_grid",
    "mask_channels",
    "normalise_target",
    "place_grid",
    "resample_from_grid",
    "resample_to_grid",
    "stored_values",
    "target_reference",
    "to_grid_stack",
    "to_network_grid",
]
