"""The quality report: a Measurement Report (PS3.16 TID 1500) in a Comprehensive 3D SR document.

The machine-readable home of the figures, of the model and of the disclaimer, which survives where private attributes
are removed. Two groups: what was measured on the CT, and what is to be known of the synthetic series.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import highdicom
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.document import device_context, text_item
from dicom_node.derive.companions.frame import Frame, finish, own_code
from dicom_node.derive.companions.request import SeriesReference
from dicom_node.derive.companions.seg import ALGORITHM
from dicom_node.derive.companions.sources import instance_stand_ins, series_stand_ins
from dicom_node.derive.origin import ascii_text
from dicom_node.dicom.companion_labels import DISCLAIMER_CODE
from dicom_node.dicom.gate_codes import CODES
from dicom_node.dicom.labels import IMAGE_COMMENTS, MANUFACTURER, BundleFacts, training_sentence
from dicom_node.dicom.uids import application_version, derived_uid

DESCRIPTION: Final = "Quality report of SYNTHETIC DWI from CT (AI) - RESEARCH"
_COMMENT: Final = CodedConcept("121106", "DCM", "Comment")
_UNITS: Final = MappingProxyType(
    {
        "ml": CodedConcept("mL", "UCUM", "milliliter"),
        "hu": codes.UCUM.HounsfieldUnit,
        "cm2": codes.UCUM.SquareCentimeter,
        "mm": codes.UCUM.Millimeter,
        "percent": codes.UCUM.Percent,
    }
)
#: Quality flags of the brain mask (`jmmda_model.imaging.mask.BrainMask`), with their meaning.
FLAGS: Final = MappingProxyType(
    {
        "volume": "Brain volume unusual for a complete scan",
        "cut_off_scan": "Stack ends inside the brain",
        "open_skull": "Part of the skull vault is missing",
    }
)
GATES: Final = MappingProxyType(
    {"pass": "Passed", "note": "Passed with notes", "repair": "Passed after a documented repair"}
)


@dataclass(frozen=True, slots=True)
class Report:
    """What the report tells.

    Attributes
    ----------
    result : SeriesReference
        The synthetic series.
    bundle : BundleFacts
        The model.
    input_digest, gate, device, precision : str
        As in `CompanionRequest`.
    notes, quality_flags, figures
        As in `CompanionRequest`.
    """

    result: SeriesReference
    bundle: BundleFacts
    input_digest: str
    gate: str
    device: str
    precision: str
    notes: tuple[str, ...]
    quality_flags: tuple[str, ...]
    figures: Mapping[str, float]


def encode_report(frame: Frame, report: Report) -> bytes:
    """Encode the quality report of a result."""
    ct = instance_stand_ins(frame.images)
    result = series_stand_ins(report.result, (1, 1))
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=device_context(frame)),
        procedure_reported=codes.SCT.ComputedTomographyOfHead,
        imaging_measurements=[_ct_group(frame, report, ct), _result_group(frame, report, result)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    ds = Comprehensive3DSR(
        evidence=[*ct, *result],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **{key: value for key, value in frame.document().items() if key != "transfer_syntax_uid"},
    )
    return finish(ds, frame)


def _ct_group(frame: Frame, report: Report, ct: list[Any]) -> Any:  # noqa: ANN401 - highdicom publishes no types
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derived_uid("tracking", "ct", frame.series_instance_uid), identifier="Brain mask of the CT"
        ),
        finding_type=codes.SCT.Brain,
        algorithm_id=AlgorithmIdentification(
            name=ALGORITHM,
            version=application_version(),
            family=codes.DCM.MorphologicalOperations,
            manufacturer=MANUFACTURER,
        ),
        measurements=list(_measurements(report.figures)),
        qualitative_evaluations=[*_gate(report), *_flags(report.quality_flags)],
        source_images=_sources(ct),
    )


def _result_group(frame: Frame, report: Report, result: list[Any]) -> Any:  # noqa: ANN401
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derived_uid("tracking", "result", frame.series_instance_uid), identifier="Synthetic series"
        ),
        algorithm_id=AlgorithmIdentification(
            name="JMMDA-GAN",
            version=ascii_text(f"{application_version()} model {report.bundle.version}".strip()),
            parameters=list(_provenance(report)),
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=MANUFACTURER,
        ),
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=own_code("DISCLAIMER", "Disclaimer"),
                value=own_code(DISCLAIMER_CODE, "Synthetic, no MR acquisition, not for primary diagnosis"),
            ),
            QualitativeEvaluation(
                name=own_code("TRAINING", "Training data of the model"),
                value=own_code(*_training(report.bundle)),
            ),
        ],
        source_images=_sources(result),
    )
    for text in (IMAGE_COMMENTS, training_sentence(report.bundle.training_mark), *report.notes):
        if text:
            group[0].ContentSequence.append(text_item(_COMMENT, text))
    return group


def _training(bundle: BundleFacts) -> tuple[str, str]:
    mark = bundle.training_mark
    return (mark, training_sentence(mark)) if mark is not None else ("PATIENTS", "Trained on images of patients")


def _sources(images: list[Any]) -> list[Any]:
    return [SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in images]


def _measurements(figures: Mapping[str, float]) -> Iterator[Any]:
    for key, value in sorted(figures.items()):
        if math.isfinite(value):
            unit = _UNITS.get(key.rpartition("_")[2], codes.UCUM.NoUnits)
            yield Measurement(name=own_code(key, key.replace("_", " ")), value=float(f"{value:.6g}"), unit=unit)


def _gate(report: Report) -> Iterator[Any]:
    meaning = GATES.get(report.gate, report.gate)
    yield QualitativeEvaluation(
        name=own_code("GATE", "Geometry gate"), value=own_code(f"GATE_{report.gate}".upper(), meaning)
    )
    for note in report.notes:
        code = note.partition(":")[0]
        if code in CODES:
            yield QualitativeEvaluation(
                name=own_code("GATE_FINDING", "Note of the geometry gate"), value=own_code(code, CODES[code].seen)
            )


def _flags(flags: tuple[str, ...]) -> Iterator[Any]:
    name = own_code("QUALITY", "Quality of the brain mask")
    for flag in flags:
        yield QualitativeEvaluation(name=name, value=own_code(flag, FLAGS.get(flag, flag.replace("_", " "))))
    if not flags:
        yield QualitativeEvaluation(name=name, value=own_code("NO_FLAGS", "Nothing unusual"))


def _provenance(report: Report) -> Iterator[str]:
    """What a program needs to trace the result, one text each."""
    bundle = report.bundle
    yield from (
        ascii_text(f"bundle {bundle.name} {bundle.size}"),
        f"bundle sha256 {bundle.sha256}",
        f"weights sha256 {bundle.weights_sha256}",
        f"input digest {report.input_digest}",
        f"jmmda-node {application_version()}",
        f"highdicom {highdicom.__version__}",
        "target: diffusion-weighted image, b = 1000 s/mm2, synthetic",
    )
    if bundle.training_mark is not None:
        yield f"training {bundle.training_mark}"
    if report.device:
        yield ascii_text(f"device {report.device} {report.precision}".strip())
