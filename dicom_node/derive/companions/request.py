"""What companions and notes are a function of, and what becomes of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.companion_labels import CompanionFacts
from dicom_node.dicom.companion_rules import CompanionKind, NoteForm
from dicom_node.dicom.labels import BundleFacts
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.errors import Permanent


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """An instance by class and UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class SeriesReference:
    """A series that lies in the study of the CT, and its instances in their order."""

    series_instance_uid: str
    instances: tuple[InstanceReference, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SeriesReference:
        """Series of the ``result`` of a job record.

        Raises
        ------
        Permanent
            `companion_request` when the record is not of that form.
        """
        try:
            instances = tuple(
                InstanceReference(str(one["sop_class_uid"]), str(one["sop_instance_uid"]))
                for one in record["instances"]
            )
            return cls(str(record["series_instance_uid"]), instances)
        except (KeyError, TypeError):
            raise Permanent("companion_request", "the job record does not hold the instances of a series") from None


@dataclass(frozen=True, slots=True)
class CompanionRequest:
    """Everything the companions of one result are a function of.

    Attributes
    ----------
    kinds : tuple of CompanionKind
        Which to write. A parametric map is left out, without a failure, where there is no `expected_error`.
    source_paths, source_frames
        CT files in the order of the gate, and which frame of each, as in `DeriveRequest`.
    mask : numpy.ndarray
        (S, rows, columns) bool, brain mask on the CT grid.
    result : SeriesReference
        The synthetic series; its images in the order of the CT slices.
    input_digest : str
        Digest of the CT, as the series was named by.
    bundle : BundleFacts
        The model.
    output : OutputSettings
        Choices of the site about the series.
    node_id : str
        ``node.node_id``.
    created : datetime
        Time of the job record, as in `DeriveRequest`.
    gate : str
        Outcome of the gate: ``pass``, ``note`` or ``repair``.
    notes, quality_flags, figures
        What gate, preprocessing and mask had to say (`SynthesisResult`, job).
    device, precision : str
        Where and how the network ran, for the report.
    expected_error : numpy.ndarray or None
        (S, rows, columns) float32 on the CT grid: expected absolute error as a fraction of the full scale of the images
        (0 to 1, the scale of the network's output divided by 2), 0 outside the brain.
    withdrawn : tuple of SeriesReference
        Series of an earlier result that this one replaces, its companions included; each is withdrawn by a key object
        document.
    """

    kinds: tuple[CompanionKind, ...]
    source_paths: tuple[Path, ...]
    mask: npt.NDArray[np.bool_]
    result: SeriesReference
    input_digest: str
    bundle: BundleFacts
    output: OutputSettings
    node_id: str
    created: datetime
    gate: str = "pass"
    notes: tuple[str, ...] = ()
    quality_flags: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    expected_error: npt.NDArray[np.float32] | None = None
    withdrawn: tuple[SeriesReference, ...] = ()
    source_frames: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteRequest:
    """Everything the answer to a refused series is a function of.

    Attributes
    ----------
    form : NoteForm
        ``sr`` or ``sc``.
    source_paths : tuple of Path
        Files of the refused series, in any order; files that cannot be read are passed over.
    study_instance_uid, series_instance_uid : str
        As the ledger knows them.
    code, reason, figures
        Of the refusal.
    output, node_id, created
        As in `CompanionRequest`. `created` has to be the recorded time of the refusal: the same note must give the same
        bytes.
    """

    form: NoteForm
    source_paths: tuple[Path, ...]
    study_instance_uid: str
    series_instance_uid: str
    code: str
    reason: str
    figures: Mapping[str, object]
    output: OutputSettings
    node_id: str
    created: datetime


@dataclass(frozen=True, slots=True)
class CompanionInstance:
    """One written file: where it lies, which object it holds, its SHA-256."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CompanionSeries:
    """A companion that was written.

    Attributes
    ----------
    kind : str
        Key of `companion_labels.CLASSES`.
    series_instance_uid, modality : str
        Of the new series.
    instances : tuple of CompanionInstance
        Its one object.
    facts : CompanionFacts
        What the sender checks the file against (`companion_labels.check_companion`); keep it in the job record.
    """

    kind: str
    series_instance_uid: str
    modality: str
    instances: tuple[CompanionInstance, ...]
    facts: CompanionFacts

    def to_json(self) -> dict[str, Any]:
        """Plain values for the job record, in the form of a result's instances."""
        return {
            "kind": self.kind,
            "series_instance_uid": self.series_instance_uid,
            "modality": self.modality,
            "companion_facts": self.facts.to_json(),
            "instances": [
                {
                    "file": one.path.name,
                    "sop_instance_uid": one.sop_instance_uid,
                    "sop_class_uid": one.sop_class_uid,
                    "sha256": one.sha256,
                }
                for one in self.instances
            ],
        }


@dataclass(frozen=True, slots=True)
class CompanionFailure:
    """A companion that was not written, and why; the job goes on without it.

    Attributes
    ----------
    kind : str
        Key of `companion_labels.CLASSES`.
    code, reason : str
        As of a `NodeError`, without patient data.
    transient : bool
        Waiting may help (disk full).
    """

    kind: str
    code: str
    reason: str
    transient: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for the job record."""
        return {"kind": self.kind, "code": self.code, "reason": self.reason, "transient": self.transient}
