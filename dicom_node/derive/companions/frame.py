"""What all companions share: names, dates, equipment, identity, and the way from a data set to a checked file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from highdicom.sr.coding import CodedConcept
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.derive.companions.request import CompanionInstance, CompanionSeries
from dicom_node.derive.companions.sources import FRAME_OF_REFERENCE, SERIES, STUDY, SourceImage
from dicom_node.derive.encoding import encode_file
from dicom_node.derive.origin import ascii_text, coding_schemes, equipment, set_identity, software_versions
from dicom_node.dicom.companion_labels import CLASSES, CompanionFacts, check_companion
from dicom_node.dicom.identity import copy_verbatim, raw, tag_of
from dicom_node.dicom.labels import CODING_SCHEME, CONTENT_QUALIFICATION, MANUFACTURER, MODEL_NAME, BundleFacts
from dicom_node.dicom.reading import ElementReader
from dicom_node.dicom.uids import derived_frame_of_reference_uid, derived_sop_uid, derived_uid
from dicom_node.ledger.durable import PART_SUFFIX, fsync_folder, name_hash, write_part

#: Series Number of each kind = offset of the site + so many + the CT's number modulo 1000.
_NUMBERS: Final = {
    "pm": 10_000,
    "seg": 20_000,
    "sr": 30_000,
    "gsps": 40_000,
    "ko": 50_000,
    "note-sr": 60_000,
    "note-sc": 60_000,
}
_DATES: Final = ("InstanceCreationDate", "ContentDate", "SeriesDate", "PresentationCreationDate")
_TIMES: Final = ("InstanceCreationTime", "ContentTime", "SeriesTime", "PresentationCreationTime")
#: Kinds whose object is an image or lies on one: General Series asks for the laterality unless the part is named.
_IMAGE_KINDS: Final = frozenset({"seg", "pm", "gsps", "note-sc"})


@dataclass(frozen=True, slots=True)
class Frame:
    """What one companion has in common with every other.

    Attributes
    ----------
    facts : CompanionFacts
        Its kind and what its marks say.
    images : tuple of SourceImage
        The CT; identity comes from the first.
    series_instance_uid, description : str
        Of the new series.
    offset : int
        ``output.series_number_offset``.
    node_id : str
        ``node.node_id``.
    created : datetime
        Time of the job record.
    bundle : BundleFacts or None
        None for a note, which no model had a part in.
    """

    facts: CompanionFacts
    images: tuple[SourceImage, ...]
    series_instance_uid: str
    description: str
    offset: int
    node_id: str
    created: datetime
    bundle: BundleFacts | None

    @property
    def sop_instance_uid(self) -> str:
        """UID of the one object."""
        return derived_sop_uid(self.facts.kind, self.series_instance_uid, "")

    @property
    def header(self) -> Dataset:
        """Header that identity is taken from."""
        return self.images[0].header

    @property
    def moment(self) -> datetime:
        """Time of the job on the clock of the CT: one offset holds for all times (PS3.3 C.12.1.1.8)."""
        zone = ElementReader(self.header).zone()
        if zone is None:
            return self.created
        return (self.created if self.created.tzinfo is not None else self.created.replace(tzinfo=UTC)).astimezone(zone)

    def document(self) -> dict[str, Any]:
        """Arguments that every constructor of highdicom takes."""
        return {
            "series_instance_uid": self.series_instance_uid,
            "series_number": self.offset
            + _NUMBERS[self.facts.kind]
            + (ElementReader(self.header).integer("SeriesNumber") or 0) % 1000,
            "sop_instance_uid": self.sop_instance_uid,
            "instance_number": 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MODEL_NAME,
            "software_versions": software_versions(self.bundle),
            "device_serial_number": self.node_id,
            "series_description": self.description,
            "transfer_syntax_uid": ExplicitVRLittleEndian,
            "specific_character_set": None,
            "coding_schemes": coding_schemes(),
        }


def fingerprint(*parts: object) -> str:
    """SHA-256 over what an object says, for its UID."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def own_code(value: str, meaning: str) -> CodedConcept:
    """Code of the project's own scheme; meanings have at most 64 characters (LO)."""
    return CodedConcept(ascii_text(value)[:64], CODING_SCHEME, ascii_text(meaning)[:64].rstrip())


def finish(ds: Dataset, frame: Frame) -> bytes:
    """Give an object of highdicom its true names, dates, equipment and identity, and encode it.

    Parameters
    ----------
    ds : pydicom.Dataset
        As the constructor left it, made of stand-ins.
    frame : Frame
        What it has in common with every companion.

    Returns
    -------
    bytes
        A whole Part 10 file.
    """
    moment = frame.moment
    for keyword in (*_DATES, *_TIMES):
        # Present where the constructor put it, and in General Series for all.
        if keyword in ds or keyword.startswith("Series"):
            setattr(ds, keyword, moment.strftime("%Y%m%d" if keyword in _DATES else "%H%M%S.%f"))
    ds.ContentQualification = CONTENT_QUALIFICATION
    ds.ContributingEquipmentSequence = _equipment(frame, moment)
    _name_dimensions(ds, frame)
    correct_ambiguous_vr(ds, is_little_endian=True)
    set_identity(ds, frame.header)
    if frame.facts.kind in _IMAGE_KINDS:
        copy_verbatim(frame.header, ds, ("BodyPartExamined",))
        if not ElementReader(frame.header).present("BodyPartExamined"):
            ds.BodyPartExamined = "HEAD"
    by_name = {image.instance_stand_in: image for image in frame.images}
    by_name.update({image.stand_in: image for image in frame.images})
    _restore(ds, _true_names(frame), by_name)
    return encode_file(ds)


def place(data: bytes, frame: Frame, out_folder: Path) -> CompanionSeries:
    """Check the encoded object and give its file its name.

    Raises
    ------
    Permanent
        `label_missing`, naming the marks.
    OSError
        When the disk is full or gone; no partial file keeps a final name.
    """
    check_companion(data, frame.facts)
    path = out_folder / f"{name_hash(frame.sop_instance_uid)}.dcm"
    part = path.with_name(path.name + PART_SUFFIX)
    write_part(part, (data,))
    part.replace(path)
    fsync_folder(out_folder)
    sop_class, modality = CLASSES[frame.facts.kind]
    instance = CompanionInstance(path, frame.sop_instance_uid, sop_class, hashlib.sha256(data).hexdigest())
    return CompanionSeries(frame.facts.kind, frame.series_instance_uid, modality, (instance,), frame.facts)


def _equipment(frame: Frame, moment: datetime) -> list[Dataset]:
    bundle = frame.bundle
    told = "Check of the CT; no image was synthesized" if bundle is None else f"Result of model sha256 {bundle.sha256}"
    return equipment(
        frame.header,
        purpose=codes.DCM.SynthesizingEquipment if frame.facts.kind == "pm" else codes.DCM.ProcessingEquipment,
        bundle=bundle,
        node_id=frame.node_id,
        moment=moment,
        description=told,
    )


def _name_dimensions(ds: Dataset, frame: Frame) -> None:
    """Replace the Dimension Organization UID, which highdicom draws at random, by one that follows from the object."""
    uid = derived_uid("dimension-organization", frame.facts.kind, frame.series_instance_uid)
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in ds.get(keyword) or ():
            item.DimensionOrganizationUID = uid


def _true_names(frame: Frame) -> dict[str, bytes]:
    """True bytes of each stand-in."""
    first = frame.images[0]
    study, series = first.value("StudyInstanceUID"), first.value("SeriesInstanceUID")
    names = {STUDY: study, SERIES: series}
    names[FRAME_OF_REFERENCE] = (
        first.value("FrameOfReferenceUID")
        or derived_frame_of_reference_uid(*(uid.decode("latin-1").strip(" \0") for uid in (study, series))).encode()
    )
    for image in frame.images:
        names[image.stand_in] = names[image.instance_stand_in] = image.value("SOPInstanceUID")
    return names


def _restore(ds: Dataset, names: Mapping[str, bytes], images: Mapping[str, SourceImage]) -> None:
    """Put true names for stand-ins at every depth, and class and frame of each CT image with them."""
    uid = str(ds.get("ReferencedSOPInstanceUID", "")) if "ReferencedSOPInstanceUID" in ds else ""
    image = images.get(uid)
    if image is not None:
        ds[tag_of("ReferencedSOPClassUID")] = raw(tag_of("ReferencedSOPClassUID"), "UI", image.value("SOPClassUID"))
        if image.frame_number is not None and uid == image.stand_in:
            ds.ReferencedFrameNumber = image.frame_number
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        if isinstance(element, RawDataElement):
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                _restore(item, names, images)
        elif element.VR == "UI" and str(element.value) in names:
            ds[tag] = raw(tag, "UI", names[str(element.value)])
