"""The preprocessing contract: every number that training and serving must share, frozen and kept in each bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jmmda_model.imaging.errors import ImagingError

CONTRACT_VERSION: Final = 2
"""Raised whenever the same settings would give other tensors; a bundle of another version is refused. Not raised for a
mask whose edge moves by less than the noise of a CT would move it: docs/mask.md has the figures of the last change."""

MASK_CHANNELS: Final = ("brain", "edge_distance")
"""Mask channels this version can compute, in the order of their documentation."""

MAX_NEIGHBOURS: Final = 4
"""More slices on each side than this would reach from the vertex to the ventricles."""

ASYMMETRY_RANGE_HU: Final = 4.0
"""Difference of HU between the sides at which an asymmetry channel saturates."""

EDGE_DISTANCE_SCALE_MM: Final = 20.0
"""Distance to the brain edge at which the ``edge_distance`` channel saturates."""


@dataclass(frozen=True, slots=True)
class PreprocessingContract:
    """What a bundle expects at its input and means by its output.

    The grid, the 0-80 HU window and the target scale are our reconstruction; JEIT250643 states 256 x 256 slices,
    images in [-1, 1] and a brain mask, but neither the spacing nor the source of the mask.

    Attributes
    ----------
    version : int
        Contract version, see `CONTRACT_VERSION`.
    grid_px : int
        Rows and columns of the network grid.
    grid_spacing_mm : float
        Pixel size of the network grid; isotropic in-plane, slices keep their own positions.
    windows_hu : tuple[tuple[float, float], ...]
        Lower and upper bound in HU of each CT channel; each is clipped and scaled to [-1, 1].
    neighbours : int
        Slices above and below that the network also sees (2.5-D input): the nearest ones at 1, 2 ... nominal
        thicknesses; at the ends of the stack the end slice.
    mirror : bool
        Whether the network also sees the slice mirrored about the mid-sagittal line: ischaemia is one-sided.
    asymmetry_mm : tuple[float, ...]
        Scales (standard deviations of a Gaussian in space) at which the mean HU of tissue is compared with the other
        side; each gives one channel, in units of `ASYMMETRY_RANGE_HU`.
    context_window_hu : tuple[float, float]
        Window of the channels of neighbours and mirror image.
    mask_channels : tuple[str, ...]
        ``brain`` is binary; ``edge_distance`` is the signed in-plane distance to the brain edge, positive inside,
        divided by 20 mm and clipped to [-1, 1].
    nominal_thickness_mm : float
        Slice thickness of the training data; thinner slices are fed as slab means of this thickness.
    max_thickness_mm : float
        Thicker slices are refused (code ``thickness``).
    target_scale : float
        Diffusion target = clip(DWI / (target_scale x median inside the brain), 0, 1) x 2 - 1.
    output_levels : int
        Stored value of network output 1.0; one step means 1/output_levels of target_scale x brain median.
    """

    version: int = CONTRACT_VERSION
    grid_px: int = 256
    grid_spacing_mm: float = 0.9
    windows_hu: tuple[tuple[float, float], ...] = ((0.0, 80.0), (20.0, 60.0), (-135.0, 215.0))
    neighbours: int = 0
    mirror: bool = False
    asymmetry_mm: tuple[float, ...] = ()
    context_window_hu: tuple[float, float] = (10.0, 60.0)
    mask_channels: tuple[str, ...] = MASK_CHANNELS
    nominal_thickness_mm: float = 5.0
    max_thickness_mm: float = 8.0
    target_scale: float = 3.0
    output_levels: int = 4095

    def __post_init__(self) -> None:
        """Refuse values that no version could honour."""
        if self.version != CONTRACT_VERSION:
            raise ImagingError(
                "contract", f"contract version {self.version} is not {CONTRACT_VERSION}, the one known here"
            )
        unknown = set(self.mask_channels) - set(MASK_CHANNELS)
        if unknown or "brain" not in self.mask_channels:
            raise ImagingError("contract", f"mask channels lack 'brain' or name unknown ones: {sorted(unknown)}")
        if not self.windows_hu or any(upper <= lower for lower, upper in (*self.windows_hu, self.context_window_hu)):
            raise ImagingError("contract", "every CT window needs an upper bound above its lower bound")
        if not 0 <= self.neighbours <= MAX_NEIGHBOURS:
            raise ImagingError("contract", f"neighbours must be 0 to {MAX_NEIGHBOURS}")
        if any(scale <= 0 for scale in self.asymmetry_mm):
            raise ImagingError("contract", "scales of the asymmetry must be positive")
        numbers = (self.grid_px, self.grid_spacing_mm, self.nominal_thickness_mm, self.target_scale)
        if min(numbers) <= 0 or not 1 <= self.output_levels <= 65535:
            raise ImagingError("contract", "sizes, spacings and scales must be positive")
        if self.max_thickness_mm < self.nominal_thickness_mm:
            raise ImagingError("contract", "max_thickness_mm is below nominal_thickness_mm")

    @property
    def ct_plane_count(self) -> int:
        """Number of CT planes that make the channels: the slice, its neighbours, its mirror image."""
        return 1 + 2 * self.neighbours + int(self.mirror)

    @property
    def ct_channel_count(self) -> int:
        """Number of CT channels: windows of the slice, its neighbours, its mirror image, asymmetry at each scale."""
        return len(self.windows_hu) + self.ct_plane_count - 1 + len(self.asymmetry_mm)

    def to_json(self) -> dict[str, Any]:
        """Return the contract as JSON types (tuples become lists), the form kept in ``bundle.json``.

        Examples
        --------
        >>> PreprocessingContract().to_json()["grid_px"]
        256
        """
        return {field.name: _to_lists(getattr(self, field.name)) for field in dataclasses.fields(PreprocessingContract)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PreprocessingContract:
        """Build a contract from `to_json`'s form.

        Parameters
        ----------
        values : Mapping[str, Any]
            Every field must be present: a default that is filled in silently could differ from the one trained with.

        Raises
        ------
        ImagingError
            ``contract``: an unknown version, an unknown or missing key, or an impossible value.

        Examples
        --------
        >>> PreprocessingContract.from_json(PreprocessingContract().to_json()) == PreprocessingContract()
        True
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if values.get("version") != CONTRACT_VERSION:
            raise ImagingError("contract", f"contract version {values.get('version')!r} is not {CONTRACT_VERSION}")
        if set(values) != names:
            raise ImagingError("contract", f"missing or unknown keys: {sorted(names ^ set(values))}")
        try:
            return cls(
                version=int(values["version"]),
                grid_px=int(values["grid_px"]),
                grid_spacing_mm=float(values["grid_spacing_mm"]),
                windows_hu=tuple(_pair(window) for window in values["windows_hu"]),
                neighbours=_whole(values["neighbours"]),
                mirror=_boolean(values["mirror"]),
                asymmetry_mm=tuple(float(scale) for scale in values["asymmetry_mm"]),
                context_window_hu=_pair(values["context_window_hu"]),
                mask_channels=tuple(str(name) for name in values["mask_channels"]),
                nominal_thickness_mm=float(values["nominal_thickness_mm"]),
                max_thickness_mm=float(values["max_thickness_mm"]),
                target_scale=float(values["target_scale"]),
                output_levels=int(values["output_levels"]),
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, ImagingError):
                raise
            raise ImagingError("contract", f"a value has the wrong type: {error}") from error


def _pair(value: Any) -> tuple[float, float]:  # noqa: ANN401  (JSON value)
    lower, upper = value
    return float(lower), float(upper)


def _whole(value: Any) -> int:  # noqa: ANN401  (JSON value)
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _boolean(value: Any) -> bool:  # noqa: ANN401  (JSON value)
    if type(value) is not bool:
        raise TypeError(f"{value!r} is not true or false")
    return value


def _to_lists(value: object) -> object:
    """Turn tuples into lists, recursively."""
    if isinstance(value, tuple):
        return [_to_lists(item) for item in value]
    return value
