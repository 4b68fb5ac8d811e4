"""A CT stack in patient coordinates: the only form in which a series enters the imaging room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.errors import ImagingError

FloatArray = npt.NDArray[np.float32]
"""Single-precision array: HU, grids, network tensors."""
BoolArray = npt.NDArray[np.bool_]
"""Binary mask."""

AIR_HU = -1024.0
"""HU of padding and of everything outside the reconstructed field."""


@dataclass(frozen=True, slots=True)
class CtVolume:
    """A stack of parallel CT slices in LPS patient coordinates (PS3.3 C.7.6.2.1.1).

    Attributes
    ----------
    hu : numpy.ndarray
        (S, rows, columns) float32, in HU; padding already replaced by -1024.
    positions_mm : numpy.ndarray
        (S, 3) Image Position (Patient): centre of each slice's first pixel, sorted ascending along `normal`.
    orientation : numpy.ndarray
        (2, 3) unit vectors: direction of increasing column index, direction of increasing row index.
    spacing_mm : tuple[float, float]
        Distance between rows, distance between columns (the order of Pixel Spacing).
    thickness_mm : numpy.ndarray
        (S,) Slice Thickness; where it is missing (0 or NaN) the slice spacing stands in.

    Raises
    ------
    ImagingError
        ``geometry``: shapes disagree, the vectors are not orthonormal, or slices are not in ascending order.
    """

    hu: FloatArray
    positions_mm: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Normalise types and check that the parts describe one stack."""
        store = object.__setattr__
        store(self, "hu", np.ascontiguousarray(self.hu, dtype=np.float32))
        for name in ("positions_mm", "orientation", "thickness_mm"):
            store(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        store(self, "spacing_mm", (float(self.spacing_mm[0]), float(self.spacing_mm[1])))
        self._check()

    def _check(self) -> None:
        """Raise `ImagingError` (``geometry``) when the parts disagree."""
        n = self.hu.shape[0]
        shapes = (self.hu.ndim, self.positions_mm.shape, self.orientation.shape, self.thickness_mm.shape)
        if n == 0 or shapes != (3, (n, 3), (2, 3), (n,)):
            raise ImagingError("geometry", f"array shapes do not describe one stack: {shapes}")
        if not np.allclose(self.orientation @ self.orientation.T, np.eye(2), atol=1e-3):
            raise ImagingError("geometry", "row and column directions are not orthonormal")
        if min(self.spacing_mm) <= 0:
            raise ImagingError("geometry", "pixel spacing must be positive")
        if np.any(np.diff(self.offsets_mm) <= 0):
            raise ImagingError("geometry", "slices are not in strictly ascending order along the normal")

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """(3,) unit normal: row direction x column direction."""
        normal = np.cross(self.orientation[0], self.orientation[1])
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)

    @property
    def offsets_mm(self) -> npt.NDArray[np.float64]:
        """(S,) position of each slice along `normal`, in mm."""
        return np.asarray(self.positions_mm @ self.normal, dtype=np.float64)

    @property
    def slice_thickness_mm(self) -> npt.NDArray[np.float64]:
        """(S,) `thickness_mm` with missing values replaced by the slice spacing (5 mm for a lone slice)."""
        known = np.isfinite(self.thickness_mm) & (self.thickness_mm > 0)
        steps = np.diff(self.offsets_mm)
        usual = float(np.median(steps)) if steps.size else 5.0
        return np.where(known, self.thickness_mm, usual)

    @property
    def slice_extent_mm(self) -> npt.NDArray[np.float64]:
        """(S,) length along the normal for which each slice stands: half-way to its neighbours.

        This and not a nominal spacing turns areas into volumes: stacks with two slice thicknesses are common in the
        head. The end slices reach half their own thickness outwards.
        """
        steps = np.diff(self.offsets_mm)
        ends = self.slice_thickness_mm[[0, -1]]
        edges = np.concatenate(([ends[0]], steps, [ends[1]]))
        return np.asarray((edges[:-1] + edges[1:]) / 2, dtype=np.float64)

    def volume_ml(self, mask: npt.NDArray[Any]) -> float:
        """Return the volume of ``mask`` (S, rows, columns; bool) in ml, from true slice positions."""
        areas_mm2 = np.count_nonzero(mask, axis=(1, 2)) * self.spacing_mm[0] * self.spacing_mm[1]
        return float(areas_mm2 @ self.slice_extent_mm / 1000)

    def in_plane_origin_mm(self) -> npt.NDArray[np.float64]:
        """(S, 2) position of each slice's first pixel along the column and the row direction (row axis first), in mm.

        Two pixels of different slices with equal in-plane coordinates lie on one line along the normal. On a tilted
        stack, whose slices are sheared against their normal, this differs from equal indices.
        """
        return np.asarray(self.positions_mm @ self.orientation[::-1].T, dtype=np.float64)
