"""One case from its files to the cache: load, register, find the brain, bring to the grid, write.

Brain mask, grid and intensities come from `jmmda_model.imaging`, the functions that the node itself calls.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging import (
    BrainMask,
    CtVolume,
    GridPlacement,
    GridStack,
    ImagingError,
    brain_mask,
    ensure_eligible,
    normalise_target,
    place_grid,
    resample_to_grid,
    to_grid_stack,
)
from jmmda_model.imaging.volume import BoolArray, FloatArray
from train.data.cache import PHANTOM, PHANTOM_MARK, CaseFacts, encode_hu, encode_target, write_case
from train.data.nifti_finite import check_finite_files
from train.data.prepare_outcome import TAKEN, Outcome
from train.data.prepare_settings import GIVEN_MASK, PrepareSettings, given_masks
from train.data.qc import QcPicture, write_mosaic
from train.data.readers import CaseRefusedError, PairSource, PairVolumes, Reader, reader_for
from train.data.registration import Registration, TransformKind, register, resample_to_ct

if TYPE_CHECKING:
    import SimpleITK as sitk

_log = logging.getLogger(__name__)

COVERED: Final = 0.95
"""A slice whose brain the diffusion volume covers less has no target; it is left out of training and scores."""
SMALL_LESION_ML: Final = 1.0
"""Nearest-neighbour resampling may halve or lose a lesion below this; above, it may not."""


class StorageError(RuntimeError):
    """Raise this when results cannot be written: no space, quota, read-only. The run stops; finished cases stay."""


@dataclass(slots=True)
class _Trace:
    """What is known of a case so far, for the record of a refusal."""

    registration: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    picture: bool = False


@dataclass(frozen=True, slots=True)
class CaseJob:
    """One case to make; everything in it travels to a worker process.

    Attributes
    ----------
    source : PairSource
        The case as its reader found it.
    name, digest : str
        Its name in the cache, and the digest of its inputs and settings.
    layout : str
        Name of the reader.
    root, folder, picture : Path
        Root of the archive; where the case and its mosaic go.
    settings : PrepareSettings
        Settings of the run.
    """

    source: PairSource
    name: str
    digest: str
    layout: str
    root: Path
    folder: Path
    picture: Path
    settings: PrepareSettings


def run_case(job: CaseJob) -> Outcome:
    """Make one case; a case that cannot be used comes back as a refusal.

    Raises
    ------
    StorageError
        When the result cannot be written.
    """
    trace = _Trace()
    code, reason, figures = TAKEN, "", {}
    facts: CaseFacts | None = None
    try:
        facts = _make(job, reader_for(job.layout, job.settings.options), trace)
    except StorageError:
        raise
    except (CaseRefusedError, ImagingError) as error:
        code, reason, figures = error.code, error.reason, dict(error.figures)
    except OSError as error:
        code, reason = (
            "unreadable",
            f"a file cannot be read: {errno.errorcode.get(error.errno or 0, 'no reason given')}",
        )
    except Exception as error:  # noqa: BLE001  (border of one case: whatever one case does, the others go on)
        # The text of a foreign exception may quote a header; its class and place cannot.
        code, reason = "failed", f"{type(error).__name__} at {_place(error)}"
        _log.error("case %s failed: %s", job.name, reason)
    return Outcome(
        name=job.name,
        centre=job.settings.centre_of(job.source),
        layout=job.layout,
        code=code,
        reason=_without_names(reason, job),
        digest=job.digest,
        figures={name: float(value) for name, value in figures.items()},
        registration=trace.registration,
        brain_ml=None if facts is None else facts.brain_ml,
        lesion_ml=None if facts is None else facts.lesion_ml,
        notes=tuple(_without_names(note, job) for note in trace.notes),
        official=job.source.split,
        picture=trace.picture,
    )


def _place(error: BaseException) -> str:
    """Module and line that raised, without any value."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return "an unknown place" if step is None else f"{Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}"


def _without_names(text: str, job: CaseJob) -> str:
    """Take folder and file names out of a text when cases do not keep their names: they may name a patient."""
    if job.settings.keeps_name_of(job.source):
        return text
    for part in job.source.paths:
        for path in job.source.files(part):
            text = text.replace(str(path), f"<{part}>").replace(path.name, f"<{part}>")
    return text.replace(job.source.patient, "<case>")


def _make(job: CaseJob, reader: Reader, trace: _Trace) -> CaseFacts:
    settings = job.settings
    check_finite_files(job.source)
    pair = reader.load(job.source)
    trace.notes.extend(pair.notes)
    if pair.target_kind != settings.target:
        reason = f"the pair holds {pair.target_kind.upper()} and not {settings.target.upper()}; see --target"
        raise CaseRefusedError("no_dwi", reason)
    mask = _brain(pair, given_masks(job.source, job.root, settings.brain_mask), settings)
    kind = TransformKind.NONE if pair.same_space else settings.transform
    found = register(pair.ct, mask.mask, pair.dwi if pair.b0 is None else pair.b0, kind=kind)
    trace.registration = found.figures()
    images = _on_ct(pair, found)
    _draw(job, pair, mask, images, found)
    trace.picture = True
    if not found.plausible:
        raise CaseRefusedError("registration", "; ".join(found.doubts), found.figures())
    if found.needs_a_look:
        trace.notes.append(
            f"CT and diffusion match little (mutual information {found.metric_after:.2f}): look at the picture"
        )
    return _write(job, pair, mask, images, trace)


@dataclass(frozen=True, slots=True)
class _OnCt:
    """Images at the voxels of the CT, (S, rows, columns); ``covered`` is where the diffusion volume reaches."""

    dwi: FloatArray
    covered: BoolArray
    lesion: BoolArray | None


def _brain(pair: PairVolumes, files: tuple[Path, ...], settings: PrepareSettings) -> BrainMask:
    """The brain of the CT as the node computes it: one mask for training and serving, unless another is asked for.

    A mask of the archive is taken where ``--brain-mask given`` says so, and for grey-value CT, which shows no bone.
    """
    from train.data.readers.image_files import read_label_file
    from train.data.readers.volumes import same_grid_as_ct

    wanted = settings.brain_mask == GIVEN_MASK or settings.options.ct_unit == "window"
    given = pair.brain if wanted else None
    if settings.brain_mask == GIVEN_MASK and given is None:
        raise CaseRefusedError("empty_mask", "the archive has no brain mask for this case; leave --brain-mask out")
    if settings.brain_mask not in (None, GIVEN_MASK):
        if len(files) != 1:
            reason = f"{len(files)} files beside the case match --brain-mask; exactly one has to"
            raise CaseRefusedError("empty_mask", reason, {"files": float(len(files))})
        given, _ = same_grid_as_ct(read_label_file(files[0]), pair.ct)
        if given is None:
            raise CaseRefusedError("lesion_grid", "the given brain mask does not lie on the grid of the CT")
    if given is None:
        mask = brain_mask(pair.ct)
        ensure_eligible(mask)
        return mask
    inside = _labels(given, pair.ct, "brain mask")
    if not inside.any():
        raise CaseRefusedError("empty_mask", "the given brain mask is empty; leave it out and the CT's own is computed")
    volume_ml = pair.ct.volume_ml(inside)
    return BrainMask(mask=inside, volume_ml=volume_ml, flags=("given",), figures={"volume_ml": volume_ml})


def _labels(image: sitk.Image, ct: CtVolume, what: str) -> BoolArray:
    """Labels that lie on the CT, by index: the positions of an uneven stack fit in no image's header."""
    import SimpleITK as sitk

    labels = np.asarray(sitk.GetArrayFromImage(image) > 0)
    if labels.shape != ct.hu.shape:
        raise CaseRefusedError("lesion_grid", f"the {what} has another size than the CT")
    return labels


def _on_ct(pair: PairVolumes, found: Registration) -> _OnCt:
    import SimpleITK as sitk

    ones = sitk.Image(pair.dwi.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(pair.dwi)
    lesion: BoolArray | None = None
    if pair.lesion is not None and pair.lesion_space == "ct":
        lesion = _labels(pair.lesion, pair.ct, "lesion mask")
    elif pair.lesion is not None:
        lesion = resample_to_ct(pair.lesion, pair.ct, found.transform, nearest=True) > 0
        _check_kept(pair.lesion, pair.ct, lesion)
    return _OnCt(
        dwi=np.asarray(resample_to_ct(pair.dwi, pair.ct, found.transform), dtype=np.float32),
        covered=resample_to_ct(ones, pair.ct, found.transform, nearest=True) > 0,
        lesion=lesion,
    )


def _check_kept(drawn: sitk.Image, ct: CtVolume, lesion: BoolArray) -> None:
    """Refuse a lesion that lies outside the CT in good part."""
    import SimpleITK as sitk

    before_ml = float(np.count_nonzero(sitk.GetArrayViewFromImage(drawn)) * np.prod(drawn.GetSpacing()) / 1000)
    after_ml = ct.volume_ml(lesion)
    if before_ml > SMALL_LESION_ML and after_ml < before_ml / 2:
        reason = f"of a lesion of {before_ml:.1f} ml only {after_ml:.1f} ml lie on the CT; check mask and pair"
        raise CaseRefusedError("off_grid", reason, {"drawn_ml": before_ml, "on_ct_ml": after_ml})


def _draw(job: CaseJob, pair: PairVolumes, mask: BrainMask, images: _OnCt, found: Registration) -> None:
    placement = place_grid(pair.ct, mask.mask, job.settings.contract)
    figures = found.figures()
    moved = (
        f"mutual information {figures['metric_before']:.3f} -> {figures['metric_after']:.3f}, moved "
        f"{figures['translation_mm']:.1f} mm and {figures['rotation_deg']:.1f} deg, brain covered "
        f"{figures['brain_overlap'] * 100:.0f} %, transform {found.kind.value}"
    )
    picture = QcPicture(
        name=job.name,
        hu=resample_to_grid(pair.ct.hu, placement, fill=-1024.0),
        dwi=resample_to_grid(images.dwi, placement),
        brain=resample_to_grid(mask.mask, placement, nearest=True),
        lesion=None if images.lesion is None else resample_to_grid(images.lesion, placement, nearest=True),
        accepted=found.plausible,
        lines=(moved, *found.doubts),
    )
    try:
        write_mosaic(job.picture, picture)
    except OSError as error:
        raise StorageError(_why(error)) from error


def _write(job: CaseJob, pair: PairVolumes, mask: BrainMask, images: _OnCt, trace: _Trace) -> CaseFacts:
    """Bring a registered pair to the grid and write it."""
    contract = job.settings.contract
    stack = to_grid_stack(pair.ct, mask, contract)
    trace.notes.extend((*stack.notes, *(f"brain mask: {flag}" for flag in mask.flags)))
    brain, left_out = _with_target(stack, resample_to_grid(images.covered, stack.placement, nearest=True))
    if left_out:
        trace.notes.append(f"{left_out} slices left out: the diffusion volume does not cover their brain")
    target = normalise_target(resample_to_grid(images.dwi, stack.placement), brain, contract)
    arrays: dict[str, npt.NDArray[Any]] = {
        "hu": encode_hu(stack.hu),
        "target": encode_target(target),
        "brain": brain.astype(np.uint8),
    }
    if images.lesion is not None:
        lesion = resample_to_grid(images.lesion, stack.placement, nearest=True)
        arrays["lesion"] = (lesion & brain).astype(np.uint8)
    facts = CaseFacts(
        patient=job.name,
        centre=job.settings.centre_of(job.source),
        # Decided when all lesion volumes are known; until then the case lies where no trainer looks.
        split="train",
        source=PHANTOM if is_phantom(job.source, job.root) else job.layout,
        brain_ml=float(mask.volume_ml),
        lesion_ml=None if images.lesion is None else pair.ct.volume_ml(images.lesion),
        slice_offsets_mm=tuple(np.round(stack.offsets_mm, 4).tolist()),
        symmetry=stack.symmetry(),
        target_kind=pair.target_kind,
        affine=grid_affine(pair.ct, stack.placement),
        registration=trace.registration,
    )
    try:
        write_case(job.folder, facts, arrays)
    except OSError as error:
        raise StorageError(_why(error)) from error
    return facts


def is_phantom(source: PairSource, root: Path) -> bool:
    """Whether a case lies in a folder that is marked as a phantom's, below or at the root of the archive."""
    root = root.resolve()
    places = {
        place
        for part in source.paths
        for path in source.files(part)
        for place in (path.resolve(), *path.resolve().parents)
        if place == root or root in place.parents
    }
    return any((place / PHANTOM_MARK).is_file() for place in places)


def _why(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "short write")


def _with_target(stack: GridStack, covered: npt.NDArray[Any]) -> tuple[BoolArray, int]:
    """Brain that has a target, and how many slices lost theirs."""
    area = np.count_nonzero(stack.brain, axis=(1, 2))
    share = np.count_nonzero(stack.brain & covered, axis=(1, 2)) / np.maximum(area, 1)
    without = (area > 0) & (share < COVERED)
    brain = stack.brain & covered
    brain[without] = False
    return np.asarray(brain, dtype=np.bool_), int(np.count_nonzero(without))


def grid_affine(ct: CtVolume, placement: GridPlacement) -> tuple[tuple[float, ...], ...]:
    """4 x 4 affine from (column, row, slice) of the network grid to LPS millimetres.

    Exact in the plane of the first slice; uneven steps between slices are replaced by their mean, since an affine
    cannot hold them (`CaseFacts.slice_offsets_mm` does).
    """
    along_columns, along_rows = ct.orientation
    steps = [ct.spacing_mm[0] * along_rows, ct.spacing_mm[1] * along_columns]
    ends = []
    for index in (0, placement.n_slices - 1):
        # Where the first grid sample lies in the canonical slice, and from there in the source slice.
        at = [placement.forward_line(index, axis)[0] for axis in (0, 1)]
        shape = placement.canonical_shape
        flips = (placement.flip_rows, placement.flip_columns)
        at = [shape[axis] - 1 - at[axis] if flips[axis] else at[axis] for axis in (0, 1)]
        row, column = (at[1], at[0]) if placement.transpose else (at[0], at[1])
        ends.append(ct.positions_mm[index] + row * steps[0] + column * steps[1])
    axes = [along_columns, along_rows] if not placement.transpose else [along_rows, along_columns]
    signs = (-1.0 if placement.flip_columns else 1.0, -1.0 if placement.flip_rows else 1.0)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * signs[0] * placement.grid_spacing_mm
    affine[:3, 1] = axes[1] * signs[1] * placement.grid_spacing_mm
    affine[:3, 2] = (ends[1] - ends[0]) / max(1, placement.n_slices - 1)
    affine[:3, 3] = ends[0]
    return tuple(tuple(round(float(value), 6) for value in row) for row in affine)
