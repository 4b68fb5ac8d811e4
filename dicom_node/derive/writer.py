"""The door of the derive stage: pixels and CT files in, labelled and checked DICOM files out.

The same request gives the same bytes, in every process and on every machine: UIDs are hashes, dates come from the
job record, nothing is taken from the clock, the file system or the order of a set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_node.derive.encoding import encode_file
from dicom_node.derive.image_common import OUTPUT_LEVELS, ImagePlan, SeriesPlan, provenance
from dicom_node.derive.mr_image import SyntheticMRImage
from dicom_node.derive.sc_image import SyntheticSCImage
from dicom_node.derive.sources import SourceSeries, read_sources
from dicom_node.dicom.labels import BundleFacts, LabelFacts, check_encoded, training_sentence
from dicom_node.dicom.legality import note_illegal_values
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import ElementReader
from dicom_node.dicom.uids import derived_series_uid, derived_sop_uid
from dicom_node.dicom.values import COPIED_TEXTS
from dicom_node.dicom.watermark import apply_watermark, plan_watermark
from dicom_node.errors import Permanent
from dicom_node.ledger.durable import PART_SUFFIX, fsync_folder, name_hash, write_part
from jmmda_model.eligibility_codes import plain_words

__all__ = ["BundleFacts", "DeriveRequest", "DerivedInstance", "DerivedSeries", "derive_series", "plan_series_uid"]

logger = logging.getLogger(__name__)

#: The class of each kind of image object (keys of `labels.OBJECT_CLASSES`).
IMAGE_OBJECTS: Final[Mapping[str, Callable[[SeriesPlan, ImagePlan], Dataset]]] = {
    "mr": SyntheticMRImage,
    "sc": SyntheticSCImage,
}
#: Longest Derivation Description: value representation ST, PS3.5 section 6.2.
_DERIVATION_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class DeriveRequest:
    """Everything a derived series is a function of.

    Attributes
    ----------
    source_paths : tuple of Path
        CT files in the order of the gate (ascending along the normal).
    pixels : numpy.ndarray
        (S, rows, columns) uint16, 0..4095, on the grid of the CT.
    mask : numpy.ndarray
        (S, rows, columns) bool, brain mask; decides where the watermark stands.
    source_slices : tuple of tuple of int
        Per image the indices of the CT slices that entered it; `(i,)` when only its own.
    bundle : BundleFacts
        The model that computed the pixels.
    output : OutputSettings
        Choices of the site.
    node_id : str
        ``node.node_id`` of the settings.
    created : datetime
        Time of the job record; every date and time of our own comes from it, on its own clock unless the CT says which
        zone its times belong to (TimezoneOffsetFromUTC). Without an offset it is taken for UTC then.
    notes : tuple of str
        What the gate and preprocessing did; goes into the derivation description.
    quality_flags : tuple of str
        Codes of the eligibility check (`jmmda_model.eligibility_codes`); their sentences go into the derivation
        description and the image comments.
    superseded_series_uid : str or None
        An earlier result that this one replaces (late slices).
    source_frames : tuple of int or None
        Which frame of each file of `source_paths` (Enhanced CT), None for all of it; may be left empty when there are
        only whole files.

    Raises
    ------
    Permanent
        `derive_request` when the arrays and lists do not fit together.
    """

    source_paths: tuple[Path, ...]
    pixels: npt.NDArray[np.uint16]
    mask: npt.NDArray[np.bool_]
    source_slices: tuple[tuple[int, ...], ...]
    bundle: BundleFacts
    output: OutputSettings
    node_id: str
    created: datetime
    notes: tuple[str, ...] = ()
    quality_flags: tuple[str, ...] = ()
    superseded_series_uid: str | None = None
    source_frames: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.source_paths)
        if self.pixels.dtype != np.uint16 or self.pixels.ndim != 3 or self.mask.shape != self.pixels.shape:
            raise Permanent(
                "derive_request", "pixels must be uint16 (slices, rows, columns) and the mask of equal size"
            )
        if count == 0 or self.pixels.shape[0] != count or len(self.source_slices) != count:
            raise Permanent("derive_request", "there must be one image and one list of sources per CT slice")
        if self.source_frames and len(self.source_frames) != count:
            raise Permanent("derive_request", "frames are given for some of the CT slices only")
        if int(self.pixels.max(initial=0)) > OUTPUT_LEVELS:
            raise Permanent("derive_request", f"pixels must not exceed {OUTPUT_LEVELS}")
        if any(not 0 <= index < count for indices in self.source_slices for index in indices):
            raise Permanent("derive_request", "a source slice index is outside the stack")


@dataclass(frozen=True, slots=True)
class DerivedInstance:
    """One written file: where it lies, which image it holds, which CT slice or frame it overlays, its SHA-256."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    source_sop_instance_uid: str
    sha256: str
    source_frame: int | None = None


@dataclass(frozen=True, slots=True)
class DerivedSeries:
    """A written series.

    Attributes
    ----------
    series_instance_uid : str
        Its UID.
    instances : tuple of DerivedInstance
        One per CT slice, in the order of the request.
    input_digest : str
        Digest of the CT (`uids.input_digest`).
    label_facts : LabelFacts
        What the sender checks the files against; keep it in the job record.
    warnings : tuple of str
        What of the CT's header was copied although it breaks a rule: ``KEYWORD: rule``, without values.
    """

    series_instance_uid: str
    instances: tuple[DerivedInstance, ...]
    input_digest: str
    label_facts: LabelFacts
    warnings: tuple[str, ...] = ()


def plan_series_uid(request: DeriveRequest) -> str:
    """Series Instance UID that `derive_series` will give, without writing anything; reads the CT files.

    Raises
    ------
    Permanent
        When a CT file cannot serve as a source.
    """
    return _series_uid(request, read_sources(request.source_paths, request.source_frames))


def derive_series(request: DeriveRequest, out_folder: Path) -> DerivedSeries:
    """Write one labelled image per CT slice.

    Every object is checked for its mandatory marks on its encoded bytes before its file gets its name.

    Parameters
    ----------
    request : DeriveRequest
        Pixels, CT files, model, settings and the time of the job.
    out_folder : Path
        Existing folder. Files of an earlier run of the same request are replaced by equal ones.

    Returns
    -------
    DerivedSeries
        Paths, UIDs and hashes.

    Raises
    ------
    Permanent
        When a CT file cannot serve as a source, the watermark does not fit, or a mark is missing.
    OSError
        When the disk is full or gone; no partial file keeps a final name.
    """
    sources = read_sources(request.source_paths, request.source_frames)
    _ensure_grid(request, sources)
    warnings = _warnings(sources)
    plan = _plan(request, sources)
    facts = LabelFacts.from_rules(request.bundle, request.output)
    pixels = request.pixels
    if facts.watermark_lines:
        pixels = apply_watermark(pixels, plan_watermark(facts.watermark_lines, request.mask))
    numbers = sources.instance_numbers()
    instances = []
    for index, source in enumerate(sources.slices):
        others = sorted(set(request.source_slices[index]) - {index})
        sop_instance_uid = derived_sop_uid(request.output.object, plan.series_instance_uid, source.name)
        image = IMAGE_OBJECTS[request.output.object](
            plan,
            ImagePlan(
                source=source,
                neighbours=tuple(sources.slices[other] for other in others),
                series=sources,
                pixels=pixels[index],
                sop_instance_uid=sop_instance_uid,
                instance_number=numbers[index],
            ),
        )
        data = encode_file(image)
        check_encoded(data, facts)
        path = out_folder / f"{name_hash(sop_instance_uid)}.dcm"
        _place(path, data)
        instances.append(
            DerivedInstance(
                path,
                sop_instance_uid,
                str(image.SOPClassUID),
                source.sop_instance_uid,
                hashlib.sha256(data).hexdigest(),
                source.frame_number,
            )
        )
    fsync_folder(out_folder)
    return DerivedSeries(plan.series_instance_uid, tuple(instances), sources.input_digest, facts, warnings)


def _warnings(sources: SourceSeries) -> tuple[str, ...]:
    """Name what is copied although something is wrong with it, by keyword and rule, and log it."""
    series_uid = sources.slices[0].series_instance_uid
    readers = [ElementReader(source.header) for source in sources.slices]
    found: set[str] = set()
    for reader in readers:
        reader.zone()
        reader.check_texts(COPIED_TEXTS)
        note_illegal_values(reader)
        found.update(reader.issues)
    if found:
        logger.warning("series %s: the header is not clean: %s", series_uid, "; ".join(sorted(found)))
    unlinked = "FrameOfReferenceUID: missing, so viewers cannot link the result to the CT"
    if not all(reader.present("FrameOfReferenceUID") for reader in readers):
        logger.warning("series %s has no frame of reference: the result cannot be linked to it in viewers", series_uid)
        found.add(unlinked)
    return tuple(sorted(found))


def _place(path: Path, data: bytes) -> None:
    """Whole file or none; the folder is made durable once for the series."""
    part = path.with_name(path.name + PART_SUFFIX)
    write_part(part, (data,))
    part.replace(path)


def _ensure_grid(request: DeriveRequest, sources: SourceSeries) -> None:
    shape = request.pixels.shape[1:]
    if any(source.shape != shape for source in sources.slices):
        raise Permanent(
            "derive_request",
            "the pixels are not on the grid of the CT",
            {"rows": int(shape[0]), "columns": int(shape[1])},
        )


def _series_uid(request: DeriveRequest, sources: SourceSeries) -> str:
    """UID over all that changes pixels or header: what the request says beside input and model is hashed here."""
    said = json.dumps(
        [
            request.output.fingerprint(),
            list(request.notes),
            list(request.quality_flags),
            [list(indices) for indices in request.source_slices],
            request.superseded_series_uid,
        ]
    )
    return derived_series_uid(
        request.output.object,
        sources.slices[0].series_instance_uid,
        request.bundle.sha256,
        sources.input_digest,
        hashlib.sha256(said.encode()).hexdigest(),
        request.node_id,
    )


def _on_the_clock_of(sources: SourceSeries, created: datetime) -> datetime:
    """Turn a moment to the clock of the CT: one offset holds for all times of an object (PS3.3 C.12.1.1.8)."""
    zone = ElementReader(sources.slices[0].header).zone()
    if zone is None:
        return created
    return (created if created.tzinfo is not None else created.replace(tzinfo=UTC)).astimezone(zone)


def _plan(request: DeriveRequest, sources: SourceSeries) -> SeriesPlan:
    return SeriesPlan(
        series_instance_uid=_series_uid(request, sources),
        node_id=request.node_id,
        created=_on_the_clock_of(sources, request.created),
        bundle=request.bundle,
        output=request.output,
        derivation=_derivation(request),
        quality=" ".join(_quality(request.quality_flags)),
        record=provenance(
            request.bundle,
            input_digest=sources.input_digest,
            notes=request.notes,
            quality_flags=request.quality_flags,
            superseded=request.superseded_series_uid,
        ),
    )


def _quality(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences for the reader about the images that went in; none when nothing is unusual."""
    return ("Quality:", *plain_words(flags)) if flags else ()


def _derivation(request: DeriveRequest) -> str:
    """Derivation Description: mandatory facts first, so that only notes can fall to the length limit."""
    bundle = request.bundle
    largest_slab = max(map(len, request.source_slices))
    sentences = [
        "SYNTHETIC diffusion-weighted-like image computed from CT by AI (JMMDA-GAN, reconstruction of JEIT250643).",
        f"Model {bundle.name[:64]} ({bundle.size[:16]}), sha256 {bundle.sha256}.",
        training_sentence(bundle.training_mark),
        "Not an MR acquisition. Brain only, zero outside. Values 0 to 4095 are 0 to three times the brain median.",
        f"Input: means of up to {largest_slab} CT slices." if largest_slab > 1 else "",
        f"Replaces series {request.superseded_series_uid}." if request.superseded_series_uid else "",
        *_quality(request.quality_flags),
        f"Notes: {'; '.join(request.notes)}" if request.notes else "",
    ]
    text = " ".join(filter(None, sentences))
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:_DERIVATION_CHARACTERS].rstrip()
