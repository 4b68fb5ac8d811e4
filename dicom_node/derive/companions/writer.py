"""The door: each companion is written by itself, and one that fails leaves a record instead of failing the job.

The same request gives the same bytes, as for the images: UIDs are hashes over all that the object says, dates come from
the job record. The UID of a note depends on study, series, reason code, form and node alone, so that it is the same
note however often the series is refused; whoever sends it keeps the first.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from dicom_node.derive.companions import gsps, ko, note_sc, note_sr, pm, seg, sr
from dicom_node.derive.companions.frame import Frame, fingerprint, place
from dicom_node.derive.companions.note_text import DESCRIPTION as NOTE_DESCRIPTION
from dicom_node.derive.companions.note_text import NoteText
from dicom_node.derive.companions.request import (
    CompanionFailure,
    CompanionInstance,
    CompanionRequest,
    CompanionSeries,
    InstanceReference,
    NoteRequest,
    SeriesReference,
)
from dicom_node.derive.companions.sources import SourceImage, read_refused_images, read_source_images
from dicom_node.dicom.companion_labels import CompanionFacts
from dicom_node.dicom.companion_rules import CompanionKind, NoteForm
from dicom_node.dicom.reading import PARSE_ERRORS, ElementReader, quiet_pydicom
from dicom_node.dicom.uids import derived_series_uid, derived_uid
from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.ledger.place import place_of

__all__ = [
    "CompanionFailure",
    "CompanionInstance",
    "CompanionRequest",
    "CompanionSeries",
    "InstanceReference",
    "NoteRequest",
    "SeriesReference",
    "note_series_uid",
    "write_companions",
    "write_note",
]

_T = TypeVar("_T")
logger = logging.getLogger(__name__)

#: What libraries raise on input that they do not expect. Their texts quote headers, so only class and place are kept.
_LIBRARY_ERRORS: Final = (*PARSE_ERRORS, ArithmeticError, LookupError, RuntimeError, MemoryError)


@dataclass(frozen=True, slots=True)
class _Task:
    """One object to write: facts, description, what its UID depends on beside the result, and how to encode it."""

    facts: CompanionFacts
    description: str
    said: tuple[object, ...]
    encode: Callable[[Frame], bytes]


def write_companions(request: CompanionRequest, out_folder: Path) -> tuple[CompanionSeries | CompanionFailure, ...]:
    """Write the companions of a result, and the withdrawal of what it replaces.

    Parameters
    ----------
    request : CompanionRequest
        What they are a function of.
    out_folder : Path
        Existing folder. Files of an earlier run of the same request are replaced by equal ones.

    Returns
    -------
    tuple of CompanionSeries or CompanionFailure
        One for each kind asked for, in the order of `CompanionKind`, then one for each withdrawn series. A parametric
        map is left out where there is no expected error. Nothing that a source file holds or a library does is raised.
    """
    kinds = [str(kind) for kind in CompanionKind if kind in request.kinds]
    if request.expected_error is None and "pm" in kinds:
        kinds.remove("pm")
    asked = [*kinds, *("ko" for _ in request.withdrawn)]
    if not asked:
        return ()
    images = _caught("source", lambda: read_source_images(request.source_paths, request.source_frames))
    if isinstance(images, CompanionFailure):
        return tuple(CompanionFailure(kind, images.code, images.reason, images.transient) for kind in asked)
    ct_series = ElementReader(images[0].header).text("SeriesInstanceUID")
    tasks = [_task(request, kind, ct_series) for kind in kinds]
    tasks += [_withdrawal(request, series) for series in request.withdrawn]
    return tuple(_written(request, images, ct_series, task, out_folder) for task in tasks)


def write_note(request: NoteRequest, out_folder: Path) -> CompanionSeries | CompanionFailure:
    """Write the answer to a refused series.

    Parameters
    ----------
    request : NoteRequest
        Which series was refused, and why. Its form is ``sr`` or ``sc``.
    out_folder : Path
        Existing folder.

    Returns
    -------
    CompanionSeries or CompanionFailure
        `source_header` when no file of the series can be read: then nobody knows whose note it would be.

    Raises
    ------
    Permanent
        `companion_request` for the form ``none``: there is nothing to write.
    """
    if request.form is NoteForm.NONE:
        raise Permanent("companion_request", "no note is written under the form none")
    kind = f"note-{request.form.value}"
    written = _caught(kind, lambda: _note(request, kind, out_folder))
    return _logged(written)


def note_series_uid(request: NoteRequest) -> str:
    """Series Instance UID that `write_note` will give; tells a note that was sent already from a new one."""
    kind = f"note-{request.form.value}"
    return derived_uid(
        "series", kind, request.study_instance_uid, request.series_instance_uid, request.code, request.node_id
    )


def _note(request: NoteRequest, kind: str, out_folder: Path) -> CompanionSeries:
    images = read_refused_images(request.source_paths, request.study_instance_uid)
    reader = ElementReader(images[0].header)
    text = NoteText.of(request.code, request.reason, request.figures, reader.integer("SeriesNumber"))
    page = tuple((line.text, line.scale) for line in text.page()) if kind == "note-sc" else ()
    frame = Frame(
        facts=CompanionFacts(kind, reader.text("SeriesInstanceUID"), code=text.code, page=page),
        images=images,
        series_instance_uid=note_series_uid(request),
        description=NOTE_DESCRIPTION,
        offset=request.output.series_number_offset,
        node_id=request.node_id,
        created=request.created,
        bundle=None,
    )
    with quiet_pydicom():
        data = note_sc.encode_note_page(frame) if kind == "note-sc" else note_sr.encode_note_report(frame, text)
    return place(data, frame, out_folder)


def _written(
    request: CompanionRequest, images: tuple[SourceImage, ...], ct_series: str, task: _Task, out_folder: Path
) -> CompanionSeries | CompanionFailure:
    def write() -> CompanionSeries:
        frame = Frame(
            facts=task.facts,
            images=images,
            series_instance_uid=derived_series_uid(
                task.facts.kind,
                ct_series,
                request.bundle.sha256,
                request.input_digest,
                fingerprint(request.result.series_instance_uid, request.output.series_number_offset, *task.said),
                request.node_id,
            ),
            description=task.description,
            offset=request.output.series_number_offset,
            node_id=request.node_id,
            created=request.created,
            bundle=request.bundle,
        )
        with quiet_pydicom():
            data = task.encode(frame)
        return place(data, frame, out_folder)

    return _logged(_caught(task.facts.kind, write))


def _task(request: CompanionRequest, kind: str, ct_series: str) -> _Task:
    mark, result = request.bundle.training_mark, request.result
    of_ct = CompanionFacts(kind, ct_series, request.bundle.sha256, mark)
    of_result = CompanionFacts(kind, result.series_instance_uid, request.bundle.sha256, mark)
    mask = request.mask
    shape = (int(mask.shape[-2]), int(mask.shape[-1]))
    match kind:
        case "seg":
            return _Task(of_ct, seg.DESCRIPTION, (_digest(mask),), lambda frame: seg.encode_mask(frame, mask))
        case "sr":
            report = _report(request)
            return _Task(of_result, sr.DESCRIPTION, (asdict(report),), lambda frame: sr.encode_report(frame, report))
        case "pm":
            error = request.expected_error if request.expected_error is not None else np.empty(0, np.float32)
            return _Task(
                of_ct,
                pm.DESCRIPTION,
                (_digest(error),),
                lambda frame: pm.encode_expected_error(frame, error, mask.shape),
            )
        case _:
            return _Task(
                of_result,
                gsps.DESCRIPTION,
                (asdict(result), shape, mark),
                lambda frame: gsps.encode_warning(frame, result, shape),
            )


def _report(request: CompanionRequest) -> sr.Report:
    return sr.Report(
        result=request.result,
        bundle=request.bundle,
        input_digest=request.input_digest,
        gate=request.gate,
        device=request.device,
        precision=request.precision,
        notes=request.notes,
        quality_flags=request.quality_flags,
        figures=dict(request.figures),
    )


def _withdrawal(request: CompanionRequest, series: SeriesReference) -> _Task:
    facts = CompanionFacts(
        "ko", series.series_instance_uid, request.bundle.sha256, replaced_by=request.result.series_instance_uid
    )
    return _Task(facts, ko.DESCRIPTION, (asdict(series),), lambda frame: ko.encode_withdrawal(frame, series))


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(
        repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def _caught(kind: str, work: Callable[[], _T]) -> _T | CompanionFailure:
    """Do the work; what goes wrong becomes a record that names it without quoting a header."""
    try:
        return work()
    except NodeError as error:
        return CompanionFailure(kind, error.code, error.reason, isinstance(error, Transient))
    except OSError as error:
        return CompanionFailure(kind, "storage", f"the file could not be written (errno {error.errno})", transient=True)
    except _LIBRARY_ERRORS as error:
        return CompanionFailure(kind, "companion_library", f"the object could not be made: {place_of(error)}")


def _logged(outcome: CompanionSeries | CompanionFailure) -> CompanionSeries | CompanionFailure:
    if isinstance(outcome, CompanionFailure):
        logger.warning("companion %s was not written: %s: %s", outcome.kind, outcome.code, outcome.reason)
    return outcome
