"""Requests for companions and notes over a derived series, and their reading back; all identities are invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from dicom_node.derive.companions.writer import (
    CompanionRequest,
    CompanionSeries,
    InstanceReference,
    NoteRequest,
    SeriesReference,
)
from dicom_node.dicom.companion_rules import CompanionKind, NoteForm
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import ElementReader, open_dataset
from tests.dicom_node.derive.derive_cases import CREATED, request_for

OLD_SERIES = "2.25.77001"
KINDS = ("seg", "sr", "pm", "gsps", "ko")
MR = "1.2.840.10008.5.1.4.1.1.4"


def images_of(series: str, count: int) -> SeriesReference:
    """A series of MR images by name alone."""
    return SeriesReference(series, tuple(InstanceReference(MR, f"{series}.{k + 1}") for k in range(count)))


def companion_request(paths: tuple[Path, ...], frames: tuple[int | None, ...] = (), **changes) -> CompanionRequest:
    """Request for every kind, over the pixels of `request_for`; the first slice holds no brain if there are others."""
    derive = request_for(paths)
    mask = np.array(derive.mask)
    mask[: len(paths) > 1] = False
    error = np.where(mask, derive.pixels.astype(np.float32) / 40950, 0).astype(np.float32)
    values = {
        "kinds": tuple(CompanionKind),
        "source_paths": paths,
        "source_frames": frames,
        "mask": mask,
        "result": images_of("2.25.88001", len(paths)),
        "input_digest": "12" * 32,
        "bundle": derive.bundle,
        "output": derive.output,
        "node_id": derive.node_id,
        "created": CREATED,
        "gate": "note",
        "notes": ("tilt: slices are tilted by 7.0 degrees", "20 slices fed as slab means of 5 mm"),
        "quality_flags": ("open_skull",),
        "figures": {"brain_volume_ml": 1234.5, "median_hu": 33.25, "defect_ml": float("nan"), "slices_with_brain": 3.0},
        "device": "cpu",
        "precision": "fp32",
        "expected_error": error,
        "withdrawn": (images_of(OLD_SERIES, 3),),
    }
    return CompanionRequest(**(values | changes))


def note_request(paths: tuple[Path, ...], form: str, **changes) -> NoteRequest:
    """Request for the answer to a series with a gap."""
    reader = ElementReader(open_dataset(paths[0]))
    values = {
        "form": NoteForm(form),
        "source_paths": paths,
        "study_instance_uid": reader.text("StudyInstanceUID"),
        "series_instance_uid": reader.text("SeriesInstanceUID"),
        "code": "gap",
        "reason": "two neighbours lie 15.0 mm apart, more than 2 x their thickness of 5.0 mm",
        "figures": {
            "instances": 28,
            "gaps": [{"from_mm": 12.0, "to_mm": 27.0, "gap_mm": 15.0, "limit_mm": 10.0}],
            "tilt_deg": 18.53,
            "slices": [{"instance_number": 3, "position_mm": 12.0}],
        },
        "output": OutputSettings(),
        "node_id": "jmmda-node-1",
        "created": CREATED,
    }
    return NoteRequest(**(values | changes))


def by_kind(outcomes) -> dict[str, CompanionSeries]:
    """The written companions; a failure among them fails the test."""
    assert all(isinstance(one, CompanionSeries) for one in outcomes), outcomes
    return {one.kind: one for one in outcomes}


def read(series: CompanionSeries) -> Dataset:
    """The one object of a companion."""
    (instance,) = series.instances
    return dcmread(instance.path)


def texts(ds: Dataset) -> list[str]:
    """Every TextValue of a document, in order."""
    return [str(element.value) for element in ds.iterall() if element.keyword == "TextValue"]


def evaluations(ds: Dataset) -> dict[str, list[str]]:
    """Values of the coded statements of a document by their names, as codes."""
    found: dict[str, list[str]] = {}
    for element in ds.iterall():
        if element.keyword != "ContentSequence":
            continue
        for item in element.value:
            if item.ValueType == "CODE":
                name, value = item.ConceptNameCodeSequence[0], item.ConceptCodeSequence[0]
                code = str(value.get("CodeValue") or value.get("LongCodeValue"))
                found.setdefault(str(name.get("CodeValue")), []).append(code)
    return found
