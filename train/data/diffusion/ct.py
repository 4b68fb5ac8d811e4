"""Read a CT series as the node reads it: the same gate, the same pixels, the same volume."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from dicom_node.dicom.gate import GateStatus, check_stack
from dicom_node.dicom.pixels import PADDING_HU, load_volume, pixel_digest
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.errors import NodeError
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.volume import CtVolume
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.facts import SeriesFacts

__all__ = ["read_ct"]

#: A CT in HU holds air around the head; a minimum above this means that a window was applied before it was saved.
_LOWEST_MINIMUM_HU: Final = -500.0


def read_ct(
    series: SeriesFacts, *, unit: Literal["hu", "window"] = "hu", thresholds: GeometrySettings | None = None
) -> CtVolume:
    """Read a CT series through the node's geometry gate and pixel path.

    Parameters
    ----------
    series : SeriesFacts
        Of kind ``ct``.
    unit : str, default "hu"
        ``window``: the values are those of an 8-bit window; they are passed on as they stand.
    thresholds : GeometrySettings, optional
        Thresholds of the gate; the node's defaults when absent.

    Raises
    ------
    DiffusionError
        ``duplicate_uid``; ``no_ct``: another kind of series; ``one_slice``; ``geometry``: what the gate refuses, its
        code in the reason; ``ct_window``: no air in the image, so the values are no HU; ``unreadable``: pixels.
    """
    if series.faults:
        raise DiffusionError("duplicate_uid", f"two different series claim the UID {series.series_instance_uid}")
    if series.kind != "ct":
        raise DiffusionError("no_ct", f"the series is no CT series: {series.reason}")
    if len(series.headers) == 1:
        raise DiffusionError("one_slice", "the series has a single slice", {"slices": 1.0})
    try:
        outcome = check_stack(series.headers, thresholds or GeometrySettings(), pixel_digest=pixel_digest)
        if outcome.status is GateStatus.REFUSE:
            figures = {name: float(value) for name, value in outcome.figures.items() if isinstance(value, int | float)}
            raise DiffusionError("geometry", f"{outcome.code}: {outcome.reason}", figures)
        loaded = load_volume(outcome.headers)
        volume = CtVolume(
            hu=loaded.hu,
            positions_mm=loaded.positions_mm,
            orientation=loaded.orientation,
            spacing_mm=loaded.spacing_mm,
            thickness_mm=loaded.thickness_mm,
        )
    except NodeError as error:
        raise DiffusionError("unreadable", f"{error.code}: {error.reason}") from None
    except ImagingError as error:
        raise DiffusionError("geometry", error.reason) from error
    _check_unit(volume, unit)
    return volume


def _check_unit(volume: CtVolume, unit: str) -> None:
    # Padding is set to air by the reader and proves nothing.
    measured = volume.hu[volume.hu != np.float32(PADDING_HU)]
    lowest = float(measured.min()) if measured.size else PADDING_HU
    if unit == "hu" and lowest > _LOWEST_MINIMUM_HU:
        reason = f"the lowest value is {lowest:g}, a CT in HU holds air below {_LOWEST_MINIMUM_HU:g}"
        raise DiffusionError("ct_window", f"{reason}: the series was windowed", {"lowest": lowest})
