"""`SeriesFacts`: what is known of one series after its headers were read, and how its kind is decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from dicom_node.dicom.values import InstanceKind, SliceHeader
from train.data.diffusion.frames import Frame
from train.data.diffusion.roles import Role

__all__ = ["B0_LIMIT", "MR_CLASSES", "Instance", "SeriesFacts", "SeriesKind", "facts_of"]

SeriesKind = Literal["ct", "dwi", "trace", "adc", "other"]

#: MR, Enhanced MR and Legacy Converted Enhanced MR Image Storage (PS3.4 B.5).
MR_CLASSES: Final = frozenset(
    {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"}
)

#: b values up to this are "b = 0", s/mm^2: some scanners cannot switch the gradients off entirely.
B0_LIMIT: Final = 50.0

_OTHER_REASONS: Final = {
    InstanceKind.LOCALIZER: "localizer",
    InstanceKind.SCREEN: "captured screens (dose report, patient information), no image",
    InstanceKind.ENHANCED: "Enhanced CT or multi-frame, whose frames are not read here",
}


@dataclass(frozen=True, slots=True)
class Instance:
    """One file: its header, the maker, and for MR its frames."""

    header: SliceHeader
    manufacturer: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What is known of one series.

    Attributes
    ----------
    series_instance_uid, study_instance_uid : str
        As in the header; with a `duplicate_uid` fault the study is that of the first file.
    modality : str
        ``CT``, ``MR`` or ``other``.
    paths : tuple of Path
        The files, each SOP instance once.
    n_images : int
        Slice images: tiles of mosaics and frames of Enhanced MR counted singly.
    n_slices : int
        Different positions among them.
    kind : str
        ``ct``, ``dwi`` (single directions, or not known to be averaged), ``trace`` (averaged by the scanner), ``adc``
        or ``other``.
    b_values : tuple of float
        Different b values in ascending order, s/mm^2; images without one add nothing.
    manufacturer : str
        One of the words of `weighting.manufacturer_of`.
    same_patient_key : str
        Salted digest of PatientID, comparable within one process only; empty when the ID is empty.
    reason : str
        Why the series has its kind; always set for ``other``.
    frame_of_reference_uid : str or None
        Series with one of these share their coordinates (PS3.3 C.7.4.1).
    faults : tuple of str
        ``duplicate_uid`` when the files cannot all belong to one series.
    notes : tuple of str
        What was seen and put right.
    headers : tuple of SliceHeader
        For CT only: what the series choice and the gate of the node look at.
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    paths: tuple[Path, ...]
    n_images: int
    n_slices: int
    kind: SeriesKind
    b_values: tuple[float, ...]
    manufacturer: str
    same_patient_key: str
    reason: str = ""
    frame_of_reference_uid: str | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    headers: tuple[SliceHeader, ...] = field(default=(), repr=False)


def facts_of(instances: Sequence[Instance], faults: Sequence[str], notes: Sequence[str]) -> SeriesFacts:
    """Sum up the instances of one series.

    Parameters
    ----------
    instances : sequence of Instance
        At least one; all with one SeriesInstanceUID.
    faults, notes : sequence of str
        What the search found out about them.
    """
    first = instances[0]
    frames = [frame for instance in instances for frame in instance.frames]
    modality = first.header.modality if first.header.modality in ("CT", "MR") else "other"
    kind, reason = _kind_of_ct(instances) if modality == "CT" else _kind_of_mr(instances, frames, modality)
    if any(instance.header.synthetic for instance in instances):
        kind, reason = "other", "marked as synthetic: results are no training data"
    return SeriesFacts(
        series_instance_uid=first.header.series_instance_uid,
        study_instance_uid=first.header.study_instance_uid,
        modality=modality,
        paths=tuple(instance.header.path for instance in instances),
        n_images=len(frames) or len(instances),
        n_slices=_positions(instances, frames),
        kind=kind,
        b_values=tuple(
            sorted({frame.weighting.b_value for frame in frames if frame.weighting.b_value is not None})
            if kind in ("dwi", "trace")
            else ()
        ),
        manufacturer=first.manufacturer,
        same_patient_key=first.header.patient_key,
        reason=reason,
        frame_of_reference_uid=first.header.frame_of_reference_uid,
        faults=tuple(faults),
        notes=tuple(notes),
        headers=tuple(instance.header for instance in instances) if modality == "CT" else (),
    )


def _positions(instances: Sequence[Instance], frames: Sequence[Frame]) -> int:
    places = [frame.position_mm for frame in frames] or [i.header.image_position_patient for i in instances]
    return len({tuple(round(value, 1) for value in place) for place in places if place is not None})


def _kind_of_ct(instances: Sequence[Instance]) -> tuple[SeriesKind, str]:
    kinds = {instance.header.kind for instance in instances}
    if InstanceKind.IMAGE in kinds:
        return "ct", "CT images"
    for kind, reason in _OTHER_REASONS.items():
        if kind in kinds:
            return "other", reason
    return "other", "no CT image"


def _kind_of_mr(instances: Sequence[Instance], frames: Sequence[Frame], modality: str) -> tuple[SeriesKind, str]:
    if modality != "MR":
        return "other", "Modality is neither CT nor MR"
    if all(instance.header.sop_class_uid not in MR_CLASSES for instance in instances):
        return "other", "captured screens or another class, no MR image"
    roles = {frame.role for frame in frames}
    weighted = [frame for frame in frames if frame.role in (Role.WEIGHTED, Role.TRACE)]
    high = [frame for frame in weighted if (frame.weighting.b_value or 0.0) > 0.0]
    # The b = 0 images of a trace series are not marked as a trace, so the weighted ones decide.
    deciding = {frame.role for frame in high or weighted}
    if Role.WEIGHTED in deciding:
        return "dwi", "diffusion-weighted images" if high else "named diffusion, no b value above 0"
    if Role.TRACE in deciding:
        return "trace", "diffusion-weighted images averaged by the scanner"
    if Role.ADC in roles:
        return "adc", "map of the apparent diffusion coefficient"
    if Role.MAP in roles:
        return "other", "derived map (exponential ADC, anisotropy, computed b value or tensor)"
    return "other", "localizer" if roles == {Role.LOCALIZER} else "MR without a sign of diffusion weighting"
