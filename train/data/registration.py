"""Rigid registration of a diffusion volume to its CT by Mattes mutual information, with a verdict on the result.

The optimiser sees the CT on a regular grid inside the enlarged brain; the images themselves are then resampled at the
CT's own voxel positions, slice by slice, so that uneven and tilted stacks keep their geometry. One thread and fixed
seeds: the same pair gives the same transform. Steps and thresholds are our reconstruction; JEIT250643 says nothing
about how its pairs were aligned.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from train.data.regular import Point, brain_centre, flattened, foreground, regular_image, resample_to_ct

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import BoolArray, CtVolume

_log = logging.getLogger(__name__)

BINS: Final = 50
SEED: Final = 2025
CT_RANGE_HU: Final = (-50.0, 120.0)
"""Below lie fat and air, above bone: bone stays one bin, so that brain, CSF and bone share the histogram."""
MARGIN_MM: Final = 10.0
"""The metric looks this far outside the brain: the skull's dark ring is what rigid registration holds on to."""
SHRINK: Final = (2, 1, 1)
SMOOTH_MM: Final = (4.0, 2.0, 0.0)
SAMPLED: Final = (1.0, 0.3, 0.3)
HEAD_RADIUS_MM: Final = 60.0
"""A turn by one radian moves tissue by about this much: it puts angles and shifts on one scale."""
ITERATIONS: Final = 120
BSPLINE_MM: Final = 50.0

GOOD_METRIC: Final = 0.3
"""Mutual information (nats) from which a result is believed; below, other starts are tried and a person has to look.

Phantoms reach 0.45 to 0.9, a real head with the brain of somebody else 0.2 to 0.3."""
START_SHIFTS_MM: Final = (-24.0, 0.0, 24.0)
START_ANGLES_DEG: Final = (-20.0, 0.0, 20.0)
HALF_TURNS_DEG: Final = ((180.0, 0.0, 0.0), (0.0, 180.0, 0.0), (0.0, 0.0, 180.0))
"""Tried to find out that a header has its axes the wrong way round: such a result is refused for its rotation."""
REFINED: Final = 3

MAX_SHIFT_MM: Final = 60.0
MAX_ROTATION_DEG: Final = 45.0
MIN_OVERLAP: Final = 0.8
METRIC_LOSS: Final = 0.01
MIN_METRIC: Final = 0.05


class TransformKind(StrEnum):
    """Freedom of the registration; the wider kinds start from the rigid result."""

    NONE = "none"
    RIGID = "rigid"
    AFFINE = "affine"
    BSPLINE = "bspline"


@dataclass(frozen=True, slots=True)
class Registration:
    """Where the diffusion volume lies in the CT's space, and whether to believe it.

    Attributes
    ----------
    transform : SimpleITK.Transform
        From CT points to diffusion points (LPS, mm).
    kind : TransformKind
        Freedom of `transform`.
    metric_before, metric_after : float
        Mutual information in nats at the header's positions (0 where the two do not meet) and at the result.
    translation_mm : float
        How far the brain's centre moved from the header's position; two studies on two scanners may lie far apart.
    shift_mm : float
        How far it moved from where the centroids of the two brains meet.
    rotation_deg : float
        Angle of the rigid part against the header's axes.
    brain_overlap : float
        Share of the CT's brain that holds diffusion signal.
    starts : int
        Starting positions that were tried.
    stop_reason : str
        What ended the last level.
    doubts : tuple[str, ...]
        Why the result is not plausible; empty when it is.
    """

    transform: sitk.Transform
    kind: TransformKind
    metric_before: float
    metric_after: float
    translation_mm: float
    shift_mm: float
    rotation_deg: float
    brain_overlap: float
    starts: int
    stop_reason: str
    doubts: tuple[str, ...]

    @property
    def needs_a_look(self) -> bool:
        """Whether the images match so little that a person has to look at the picture before it is used."""
        return self.metric_after < GOOD_METRIC

    @property
    def plausible(self) -> bool:
        """Whether nothing speaks against the result."""
        return not self.doubts

    def figures(self) -> dict[str, float]:
        """Numbers for records and reports, units in the keys."""
        names = ("metric_before", "metric_after", "translation_mm", "shift_mm", "rotation_deg", "brain_overlap")
        return {name: round(float(getattr(self, name)), 4) for name in names} | {"starts": float(self.starts)}


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two images as the optimiser sees them; ``region`` is where the metric looks, ``brain`` what must be met."""

    fixed: sitk.Image
    region: sitk.Image
    brain: sitk.Image
    moving: sitk.Image
    signal: sitk.Image
    centre: Point
    moving_centre: Point


def register(
    volume: CtVolume,
    brain: BoolArray,
    moving: sitk.Image,
    *,
    kind: TransformKind = TransformKind.RIGID,
    threads: int = 1,
) -> Registration:
    """Register a diffusion volume to its CT.

    Parameters
    ----------
    volume : CtVolume
        The CT; its slices may be uneven or tilted.
    brain : numpy.ndarray
        (S, rows, columns) bool, not empty: brain on the CT grid.
    moving : SimpleITK.Image
        3-D float: b0 if there is one, it shows the outline best, else the diffusion-weighted image.
    kind : TransformKind
        ``none`` keeps the header's positions and only judges them.
    threads : int
        More than one gives the same result up to rounding, in less time.

    Returns
    -------
    Registration
        Not plausible results are returned too: the caller refuses them.
    """
    with _itk_threads(threads):
        return _register(_prepare(volume, brain, moving), kind)


@contextlib.contextmanager
def _itk_threads(threads: int) -> Iterator[None]:
    """Bound ITK's threads for a while.

    A bound on the registration method alone leaves the metric its own threads, whose sums differ in the last digits
    from call to call.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _register(pair: _Pair, kind: TransformKind) -> Registration:
    import SimpleITK as sitk

    header = _rigid(pair.centre, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    before = _metric(pair, header)
    if kind is TransformKind.NONE:
        return _judge(pair, sitk.Transform(header), header, kind, before, before, 0, "positions of the header kept")
    centred = _rigid(pair.centre, (0.0, 0.0, 0.0), tuple(np.subtract(pair.moving_centre, pair.centre)))
    first = header if before > _metric(pair, centred) else centred
    rigid, reason = _optimise(pair, first, range(3))
    starts, after = 1, _metric(pair, rigid)
    if after < GOOD_METRIC or _overlap(pair, rigid) < MIN_OVERLAP:
        tried = _multi_start(pair, centred)
        starts += len(tried)
        for again in tried[:REFINED]:
            fine, fine_reason = _optimise(pair, again, range(1, 3))
            fine_metric = _metric(pair, fine)
            if fine_metric > after:
                rigid, after, reason = fine, fine_metric, fine_reason
    transform = sitk.Transform(rigid)
    if kind is not TransformKind.RIGID:
        transform, reason = _deform(pair, rigid, kind)
        after = _metric(pair, transform)
    result = _judge(pair, transform, rigid, kind, before, after, starts, reason)
    _log.debug("registered: %s", result.figures())
    return result


def _prepare(volume: CtVolume, brain: BoolArray, moving: sitk.Image) -> _Pair:
    import SimpleITK as sitk

    fixed = regular_image(volume, np.clip(volume.hu, *CT_RANGE_HU), fill=CT_RANGE_HU[0])
    inside = sitk.BinaryThreshold(regular_image(volume, brain), 0.5, 2.0)
    radius = [max(1, round(MARGIN_MM / step)) for step in inside.GetSpacing()]
    signal = foreground(moving)
    return _Pair(
        fixed=fixed,
        region=sitk.BinaryDilate(inside, radius),
        brain=inside,
        moving=flattened(moving, signal),
        signal=signal,
        centre=brain_centre(inside),
        moving_centre=brain_centre(signal),
    )


def _rigid(centre: Point, angles_rad: Sequence[float], translation: Sequence[float]) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    rigid = sitk.Euler3DTransform()
    rigid.SetCenter([float(value) for value in centre])
    rigid.SetRotation(*(float(angle) for angle in angles_rad))
    rigid.SetTranslation([float(value) for value in translation])
    return rigid


def _method(pair: _Pair) -> sitk.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=BINS)
    method.SetMetricFixedMask(pair.region)
    method.SetInterpolator(sitk.sitkLinear)
    # The filter's blurred gradients do not belong to the metric of the unblurred images: on thick slices the optimiser
    # then walks downhill. Finite differences do.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    return method


def _metric(pair: _Pair, transform: sitk.Transform) -> float:
    """Mutual information in nats over all samples; 0 where the images do not meet."""
    method = _method(pair)
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(pair.fixed, pair.moving))
    except RuntimeError:  # too few samples fall on the moving image
        return 0.0


def _optimise(pair: _Pair, start: sitk.Transform, levels: range) -> tuple[sitk.Transform, str]:
    """Optimise over some levels of the pyramid; returns a new transform of the start's type, and the stop reason."""
    method = _method(pair)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([SAMPLED[level] for level in levels], SEED)
    method.SetShrinkFactorsPerLevel([SHRINK[level] for level in levels])
    method.SetSmoothingSigmasPerLevel([SMOOTH_MM[level] for level in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.01,
        numberOfIterations=ITERATIONS,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    turning = len(start.GetParameters()) - 3
    method.SetOptimizerScales([HEAD_RADIUS_MM**2] * turning + [1.0] * 3)
    found = type(start)(start)
    method.SetInitialTransform(found, inPlace=True)
    try:
        method.Execute(pair.fixed, pair.moving)
    except RuntimeError:  # the images lost each other on the way
        return start, "the images do not meet"
    return found, str(method.GetOptimizerStopConditionDescription())


def _multi_start(pair: _Pair, centred: sitk.Euler3DTransform) -> list[sitk.Euler3DTransform]:
    """Coarse results from several positions, best first: shifted along the body, nodded, and turned by half a turn."""
    base = centred.GetTranslation()
    places = [((angle, 0.0, 0.0), shift) for shift in START_SHIFTS_MM for angle in START_ANGLES_DEG]
    places.extend((turn, 0.0) for turn in HALF_TURNS_DEG)
    results = []
    for angles_deg, shift in places:
        start = _rigid(pair.centre, np.deg2rad(angles_deg).tolist(), np.add(base, (0.0, 0.0, shift)).tolist())
        found, _ = _optimise(pair, start, range(1))
        results.append((_metric(pair, found), found))
    return [found for _, found in sorted(results, key=lambda result: -result[0])]


def _deform(pair: _Pair, rigid: sitk.Euler3DTransform, kind: TransformKind) -> tuple[sitk.Transform, str]:
    """Refine a rigid result by an affine or a B-spline transform."""
    import SimpleITK as sitk

    if kind is TransformKind.AFFINE:
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        affine.SetCenter(rigid.GetCenter())
        found, reason = _optimise(pair, affine, range(1, 3))
        return sitk.Transform(found), reason
    extent = np.asarray(pair.fixed.GetSize()) * np.asarray(pair.fixed.GetSpacing())
    mesh = [max(2, round(length / BSPLINE_MM)) for length in extent]
    spline = sitk.BSplineTransformInitializer(pair.fixed, mesh, order=3)
    method = _method(pair)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED[1], SEED)
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, inPlace=True)
    method.SetOptimizerAsLBFGSB(numberOfIterations=30, maximumNumberOfCorrections=5)
    method.Execute(pair.fixed, pair.moving)
    return sitk.CompositeTransform([rigid, spline]), str(method.GetOptimizerStopConditionDescription())


def _overlap(pair: _Pair, transform: sitk.Transform) -> float:
    """Share of the CT's brain where the diffusion volume has signal."""
    import SimpleITK as sitk

    met = sitk.Resample(pair.signal, pair.brain, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    inside = sitk.GetArrayViewFromImage(pair.brain) > 0
    return float(np.mean(sitk.GetArrayViewFromImage(met)[inside] > 0))


def _judge(
    pair: _Pair,
    transform: sitk.Transform,
    rigid: sitk.Euler3DTransform,
    kind: TransformKind,
    before: float,
    after: float,
    starts: int,
    reason: str,
) -> Registration:
    moved = np.asarray(rigid.TransformPoint(pair.centre))
    cosine = (np.trace(np.reshape(rigid.GetMatrix(), (3, 3))) - 1) / 2
    rotation = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    shift = float(np.linalg.norm(moved - pair.moving_centre))
    overlap = _overlap(pair, transform)
    rules = (
        (shift > MAX_SHIFT_MM, f"moved {shift:.0f} mm away from where the two brains' centres meet"),
        (rotation > MAX_ROTATION_DEG, f"turned by {rotation:.0f} degrees"),
        (after < before - METRIC_LOSS, "the images match less than before"),
        (after < MIN_METRIC, f"the images hardly match (mutual information {after:.3f})"),
        (overlap < MIN_OVERLAP, f"the diffusion images cover {overlap * 100:.0f} % of the brain"),
    )
    return Registration(
        transform=transform,
        kind=kind,
        metric_before=before,
        metric_after=after,
        translation_mm=float(np.linalg.norm(moved - pair.centre)),
        shift_mm=shift,
        rotation_deg=rotation,
        brain_overlap=overlap,
        starts=starts,
        stop_reason=reason,
        doubts=tuple(text for broken, text in rules if broken),
    )


__all__ = ["Registration", "TransformKind", "register", "resample_to_ct"]
