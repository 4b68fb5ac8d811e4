"""Read a diffusion series: the highest b value averaged over its directions, and b = 0 beside it, as images in LPS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from dicom_node.dicom.reading import PARSE_ERRORS, open_dataset, quiet_pydicom
from dicom_node.errors import NodeError
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.facts import B0_LIMIT, SeriesFacts
from train.data.diffusion.frames import Frame, frames_of
from train.data.diffusion.grouping import Stack, Volume, lay_out, same_plane, shell_above, split_volumes
from train.data.diffusion.pixels import FloatArray, FrameReader
from train.data.diffusion.roles import Role

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["DiffusionVolumes", "read_diffusion"]

#: Below this, an image is not diffusion weighted.
_WEIGHTED_FROM: Final = 100.0
#: A volume is told as weighted by its looks when its fluid is darker than this share of the brightest volume's.
_DARK_FLUID: Final = 0.6

_USED_ROLES: Final = {
    "dwi": frozenset({Role.WEIGHTED, Role.TRACE, Role.PLAIN}),
    "trace": frozenset({Role.WEIGHTED, Role.TRACE, Role.PLAIN}),
    "adc": frozenset({Role.ADC}),
}


@dataclass(frozen=True, slots=True)
class DiffusionVolumes:
    """What was read of a diffusion series.

    Attributes
    ----------
    dwi : SimpleITK.Image
        float32, LPS, signal of the highest b value; for an ADC series the map itself in its own units.
    b0 : SimpleITK.Image or None
        Mean of the b = 0 volumes on their own grid.
    b_value : float or None
        Median b value of what was averaged, s/mm^2; None for an ADC map and where it could not be known.
    n_directions : int
        Volumes that were averaged: directions and repetitions; 1 for a trace image or an ADC map.
    target_kind : str
        ``dwi`` or ``adc``.
    notes : tuple of str
        What was dropped, assumed or averaged.
    """

    dwi: sitk.Image
    b0: sitk.Image | None
    b_value: float | None
    n_directions: int
    target_kind: Literal["dwi", "adc"]
    notes: tuple[str, ...]


def read_diffusion(
    series: SeriesFacts,
    *,
    b_value: float | None = None,
    guess_without_b_value: bool = False,
    b0_series: SeriesFacts | None = None,
) -> DiffusionVolumes:
    """Read the diffusion-weighted volume of a series.

    The volumes of the highest b value are averaged: the arithmetic mean of the magnitudes, so that noise is averaged
    too (the geometric mean, which is the trace image in the strict sense, falls to zero with one dark voxel). Where the
    scanner's own average is among them, it alone is taken. A volume with a missing or unreadable slice is left out.

    Parameters
    ----------
    series : SeriesFacts
        Of kind ``dwi``, ``trace`` or ``adc``.
    b_value : float, optional
        Take this b value instead of the highest. Where no header has one, the b value of the weighted volume; giving
        it is leave to look for that volume as the next parameter does.
    guess_without_b_value : bool, default False
        Where several volumes have no b value at all, take the one whose fluid is darkest against its mean.
    b0_series : SeriesFacts, optional
        A series of b = 0 in the same frame of reference (`PairChoice.b0`), used when `series` has none.

    Returns
    -------
    DiffusionVolumes

    Raises
    ------
    DiffusionError
        ``duplicate_uid``, ``no_dwi`` (another kind of series), ``no_b_value``, ``one_slice``, ``geometry``,
        ``not_finite`` or ``unreadable``.
    """
    notes = list(series.notes)
    frames = _checked_frames(series, notes)
    if series.kind == "adc":
        return _read_map(frames, notes)
    if all(frame.weighting.b_value is None for frame in frames):
        found = _read_unlabelled(frames, b_value, guess_without_b_value, notes)
    else:
        found = _read_labelled(_filled(frames, notes), b_value, notes)
    if found.b0 is not None or b0_series is None:
        return found
    more: list[str] = []
    lowest = _read_companion(b0_series, more)
    return replace(found, b0=lowest, notes=(*found.notes, *more))


def _checked_frames(series: SeriesFacts, notes: list[str]) -> list[Frame]:
    """Read the headers of a series again and keep the frames of its kind."""
    if series.faults:
        raise DiffusionError("duplicate_uid", f"two different series claim the UID {series.series_instance_uid}")
    if series.kind not in _USED_ROLES:
        raise DiffusionError("no_dwi", f"the series is no diffusion series: {series.reason}")
    frames = [frame for frame in _frames(series, notes) if frame.role in _USED_ROLES[series.kind]]
    if not frames:
        raise DiffusionError("unreadable", "no image of the series could be read")
    same_plane(frames)
    return frames


def _read_companion(series: SeriesFacts, notes: list[str]) -> sitk.Image | None:
    try:
        frames = _checked_frames(series, notes)
    except DiffusionError as error:
        notes.append(f"the series of b = 0 was not used ({error.code})")
        return None
    values = [frame.weighting.b_value or 0.0 for frame in frames]
    lowest = _read_b0(frames, values, _WEIGHTED_FROM, notes)
    if lowest is not None:
        notes.append("b = 0 comes from a series of its own")
    return lowest


def _frames(series: SeriesFacts, notes: list[str]) -> list[Frame]:
    frames: list[Frame] = []
    broken = 0
    for path in series.paths:
        try:
            with quiet_pydicom():
                frames += frames_of(open_dataset(path), path)
        except (NodeError, *PARSE_ERRORS):
            broken += 1
    if broken:
        notes.append(f"{broken} files could not be read")
    return frames


def _filled(frames: Sequence[Frame], notes: list[str]) -> list[Frame]:
    """Give images without a b value b = 0 in a series where others have one: Canon writes none for b = 0."""
    missing = sum(frame.weighting.b_value is None for frame in frames)
    if not missing:
        return list(frames)
    notes.append(f"{missing} images without a b value taken as b = 0, since others of the series have one")
    return [
        frame
        if frame.weighting.b_value is not None
        else replace(frame, weighting=replace(frame.weighting, b_value=0.0))
        for frame in frames
    ]


def _read_labelled(frames: Sequence[Frame], wanted: float | None, notes: list[str]) -> DiffusionVolumes:
    values = [frame.weighting.b_value or 0.0 for frame in frames]
    low, high = shell_above(values, wanted)
    if high < _WEIGHTED_FROM:
        raise DiffusionError("no_b_value", f"no diffusion-weighted volume: the highest b value is {max(values):g}")
    shell = [frame for frame, value in zip(frames, values, strict=True) if low <= value <= high]
    averaged = [frame for frame in shell if frame.weighting.isotropic or frame.role is Role.TRACE]
    if averaged and len(averaged) < len(shell):
        notes.append("the scanner's own average over directions is taken, single directions are left out")
    mean, stack, count = _mean(averaged or shell, "weighted", notes)
    b_value = float(np.median([frame.weighting.b_value or 0.0 for frame in averaged or shell]))
    if count > 1:
        notes.append(f"arithmetic mean of {count} volumes at b = {b_value:g}")
    dwi = _image(mean, stack)
    return DiffusionVolumes(dwi, _read_b0(frames, values, low, notes), b_value, count, "dwi", tuple(notes))


def _read_b0(frames: Sequence[Frame], values: Sequence[float], below: float, notes: list[str]) -> sitk.Image | None:
    lowest = min(values)
    chosen = [frame for frame, value in zip(frames, values, strict=True) if value <= min(lowest + 5.0, B0_LIMIT)]
    if lowest > B0_LIMIT or lowest >= below or not chosen:
        return None
    try:
        mean, stack, _ = _mean(chosen, "b = 0", notes)
    except DiffusionError as error:
        # The weighted volume is there; without b = 0 registration has one image less to work on.
        notes.append(f"no b = 0 volume ({error.code})")
        return None
    return _image(mean, stack)


def _read_map(frames: Sequence[Frame], notes: list[str]) -> DiffusionVolumes:
    mean, stack, count = _mean(frames, "ADC", notes)
    if count > 1:
        raise DiffusionError("geometry", f"{count} ADC maps in one series")
    return DiffusionVolumes(_image(mean, stack), None, None, 1, "adc", tuple(notes))


def _mean(frames: Sequence[Frame], what: str, notes: list[str]) -> tuple[FloatArray, Stack, int]:
    """Average the complete volumes among the frames: array (slices, rows, columns), grid, number of volumes."""
    volumes, dropped = split_volumes(frames)
    if dropped:
        notes.append(f"{dropped} {what} volumes left out: a slice is missing")
    if not volumes:
        raise DiffusionError("geometry", f"every {what} volume lacks a slice")
    stack = lay_out(volumes[0])
    total: Any = None
    count = unreadable = 0
    for signal in _signals(volumes):
        if signal is None:
            unreadable += 1
            continue
        total = signal.astype(np.float64) if total is None else total + signal
        count += 1
    if unreadable:
        notes.append(f"{unreadable} {what} volumes left out: pixels could not be read")
    if not count:
        raise DiffusionError("unreadable", f"the pixels of every {what} volume could not be read")
    mean = np.asarray(total / count, dtype=np.float32)
    _check_values(mean)
    return mean, stack, count


def _signals(volumes: Sequence[Volume]) -> Iterator[FloatArray | None]:
    """Read volumes one after the other; None for one with an unreadable slice."""
    reader = FrameReader()
    for volume in volumes:
        signal = np.empty((len(volume.frames), *volume.frames[0].size), dtype=np.float32)
        try:
            for index, frame in enumerate(volume.frames):
                signal[index] = reader.signal(frame)
        except DiffusionError:
            yield None
        else:
            yield signal


def _check_values(signal: FloatArray) -> None:
    if not np.isfinite(signal).all():
        count = int(np.count_nonzero(~np.isfinite(signal)))
        raise DiffusionError(
            "not_finite", "the signal holds values that are no finite number", {"voxels": float(count)}
        )
    if float(signal.min()) == float(signal.max()):
        raise DiffusionError("unreadable", "all voxels of the volume have one value")


def _image(signal: FloatArray, stack: Stack) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(signal)
    image.SetOrigin([float(value) for value in stack.origin])
    image.SetSpacing([float(value) for value in stack.spacing])
    image.SetDirection([float(value) for value in stack.axes.ravel()])
    return image


# --- no b value in any header ------------------------------------------------------------------------------------


def _read_unlabelled(frames: Sequence[Frame], b_value: float | None, guess: bool, notes: list[str]) -> DiffusionVolumes:
    volumes, dropped = split_volumes(frames)
    if dropped:
        notes.append(f"{dropped} volumes left out: a slice is missing")
    if not volumes:
        raise DiffusionError("geometry", "every volume lacks a slice")
    if len(volumes) == 1 and b_value is not None:
        notes.append(f"b = {b_value:g} as given, no header says so")
        mean, stack, _ = _mean(volumes[0].frames, "weighted", notes)
        return DiffusionVolumes(_image(mean, stack), None, b_value, 1, "dwi", tuple(notes))
    if len(volumes) > 1 and (guess or b_value is not None):
        return _read_darkest(volumes, b_value, notes)
    held = "one volume" if len(volumes) == 1 else f"{len(volumes)} mixed volumes"
    remedy = "give the b value of the weighted volume, or leave the case out"
    raise DiffusionError("no_b_value", f"{held} and no b value in any header: {remedy}")


def _read_darkest(volumes: Sequence[Volume], b_value: float | None, notes: list[str]) -> DiffusionVolumes:
    """Choose the weighted volume by its looks: fluid, brightest without weighting, is darkest against the mean."""
    stack = lay_out(volumes[0])
    signals = [signal for signal in _signals(volumes) if signal is not None]
    if len(signals) < len(volumes):
        notes.append(f"{len(volumes) - len(signals)} volumes left out: pixels could not be read")
    if len(signals) < 2:
        raise DiffusionError("no_b_value", "fewer than two volumes could be read: none can be told as weighted")
    for signal in signals:
        _check_values(signal)
    ratios = _fluid_ratios(signals)
    chosen, brightest = int(np.argmin(ratios)), int(np.argmax(ratios))
    if ratios[chosen] > _DARK_FLUID * ratios[brightest]:
        figures = {"lowest_ratio": ratios[chosen], "highest_ratio": ratios[brightest]}
        raise DiffusionError(
            "no_b_value", "no volume looks diffusion weighted: fluid is equally bright in all", figures
        )
    notes.append(
        f"no b value in any header: volume {chosen + 1} of {len(signals)} has the darkest fluid"
        f" ({ratios[chosen]:.2f} of its mean, the brightest volume {ratios[brightest]:.2f}) and is taken as weighted"
    )
    return DiffusionVolumes(
        _image(signals[chosen], stack), _image(signals[brightest], stack), b_value, 1, "dwi", tuple(notes)
    )


def _fluid_ratios(signals: Sequence[FloatArray]) -> list[float]:
    """Mean over fluid divided by mean over the head, per volume.

    The volume of the highest mean is the least weighted one; its brightest twentieth inside the head is mostly fluid.
    """
    reference = max(signals, key=lambda signal: float(signal.mean()))
    head = reference > 0.15 * float(np.percentile(reference, 99.0))
    fluid = reference >= float(np.percentile(reference[head], 95.0))
    return [float(signal[fluid].mean()) / max(float(signal[head].mean()), 1e-6) for signal in signals]
