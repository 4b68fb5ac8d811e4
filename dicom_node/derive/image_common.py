"""What both kinds of image have in common: labels, references, equipment, plane, pixels, identity.

`mr_image` and `sc_image` each set what their own modules ask for and then call `finish`; so the two differ in that and
in nothing else. Each part below sets the attributes of one topic on a data set. Texts of our own are plain ASCII,
because SpecificCharacterSet belongs to the patient's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.sr.coding import CodedConcept
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DS

from dicom_node.derive.lossy import inherit_lossy_compression
from dicom_node.derive.origin import coding_schemes, equipment, set_identity, software_versions
from dicom_node.derive.sources import SourceSeries, SourceSlice
from dicom_node.dicom.identity import ACQUISITION, IMAGE_PLANE, copy_verbatim, raw, tag_of
from dicom_node.dicom.labels import (
    CODING_SCHEME,
    CONTENT_QUALIFICATION,
    IMAGE_TYPE,
    MANUFACTURER,
    MODEL_NAME,
    PRIVATE_CREATOR,
    PRIVATE_GROUP,
    SYNTHESIS_CODE,
    BundleFacts,
    image_comments,
    series_description,
)
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import ElementReader
from dicom_node.dicom.uids import application_version, derived_frame_of_reference_uid

OUTPUT_LEVELS: Final = 4095


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """Everything that is the same for all instances of one derived series.

    Attributes
    ----------
    series_instance_uid, node_id : str
        Names of the series and of the node.
    created : datetime
        Time of the job record, on the clock of the CT where that is known; the only source of dates and times of our
        own.
    bundle : BundleFacts
        The model.
    output : OutputSettings
        Choices of the site.
    derivation : str
        Derivation Description, ASCII, at most 1024 characters.
    record : str
        JSON text for the private block.
    quality : str
        What the reader should know about the CT, ASCII; empty when nothing is unusual.
    """

    series_instance_uid: str
    node_id: str
    created: datetime
    bundle: BundleFacts
    output: OutputSettings
    derivation: str
    record: str
    quality: str = ""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """What differs from image to image.

    Attributes
    ----------
    source : SourceSlice
        The CT slice that this image overlays.
    neighbours : tuple of SourceSlice
        Other CT slices that entered the pixels (slab means).
    series : SourceSeries
        All CT slices, for what depends on the stack.
    pixels : numpy.ndarray
        (rows, columns) uint16, 0..4095, watermark included.
    sop_instance_uid : str
        UID of this image.
    instance_number : int
        Its number in the series.
    """

    source: SourceSlice
    neighbours: tuple[SourceSlice, ...]
    series: SourceSeries
    pixels: npt.NDArray[np.uint16]
    sop_instance_uid: str
    instance_number: int


def _element(keyword: str, vr: str, value: object) -> DataElement:
    """Element whose value is not validated: it was copied from the CT, or its VR depends on the context."""
    return DataElement(tag_of(keyword), vr, value, validation_mode=IGNORE)


def _item(*elements: DataElement) -> Dataset:
    item = Dataset()
    for element in elements:
        item.add(element)
    return item


def constructor_arguments(plan: SeriesPlan, image: ImagePlan) -> dict[str, Any]:
    """Arguments that both classes of highdicom take; patient and study are left out, `finish` copies them as bytes."""
    created = plan.created.replace(tzinfo=None)
    return {
        # Replaced by the bytes of the CT, which may be no valid UID.
        "study_instance_uid": plan.series_instance_uid,
        "series_instance_uid": plan.series_instance_uid,
        "series_number": plan.output.series_number_offset + (image.source.series_number or 0) % 1000,
        "sop_instance_uid": image.sop_instance_uid,
        "instance_number": image.instance_number,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(plan.bundle),
        "device_serial_number": plan.node_id,
        "series_description": series_description(plan.output, plan.bundle.training_mark),
        "content_qualification": CONTENT_QUALIFICATION,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "content_date": created.date(),
        "content_time": created.time(),
        "series_date": created.date(),
        "series_time": created.time(),
        "coding_schemes": coding_schemes(),
    }


def finish(ds: Dataset, plan: SeriesPlan, image: ImagePlan) -> None:
    """Set all that the two kinds of image share; whatever highdicom took from the clock is replaced."""
    ds.InstanceCreationDate = ds.ContentDate
    ds.InstanceCreationTime = ds.ContentTime
    _set_labels(ds, plan)
    _set_references(ds, image.source, image.neighbours)
    ds.ContributingEquipmentSequence = equipment(
        image.source.header,
        purpose=codes.DCM.SynthesizingEquipment,
        bundle=plan.bundle,
        node_id=plan.node_id,
        moment=plan.created,
        description=f"Synthesis of the image from CT, model sha256 {plan.bundle.sha256}",
    )
    _set_plane(ds, image.source, image.series)
    _set_pixels(ds, image.pixels)
    _set_private_block(ds, plan)
    inherit_lossy_compression(image.source.path, image.source.header, ds)
    set_identity(ds, image.source.header)


def _set_labels(ds: Dataset, plan: SeriesPlan) -> None:
    """Say in every public place that this is no MR acquisition (PS3.3 C.7.6.1, C.12.1)."""
    ds.SyntheticData = "YES"
    ds.ImageType = list(IMAGE_TYPE)
    ds.ImageComments = image_comments(plan.bundle.training_mark, plan.quality)
    ds.DerivationDescription = plan.derivation
    ds.DerivationCodeSequence = [
        CodedConcept.from_code(codes.DCM.SpatialResampling),
        CodedConcept(SYNTHESIS_CODE, CODING_SCHEME, "Synthesis of diffusion-weighted-like image from CT by AI"),
    ]
    ds.BurnedInAnnotation = "NO"
    ds.RecognizableVisualFeatures = "NO"


def _set_references(ds: Dataset, source: SourceSlice, neighbours: tuple[SourceSlice, ...]) -> None:
    """Point to the CT slices (PS3.3 C.7.6.1.1.4, C.12.2); the slice in the same plane comes first."""
    purpose = CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    images: list[Dataset] = []
    instances: dict[str, Dataset] = {}
    for slice_ in (source, *neighbours):
        reference = (
            _element("ReferencedSOPClassUID", "UI", slice_.sop_class_uid),
            _element("ReferencedSOPInstanceUID", "UI", slice_.sop_instance_uid),
        )
        image = _item(*reference)
        if slice_.frame_number is not None:
            image.ReferencedFrameNumber = slice_.frame_number
        if slice_ is source:
            image.SpatialLocationsPreserved = "YES"
        image.PurposeOfReferenceCodeSequence = [purpose]
        images.append(image)
        # Common Instance Reference knows instances only, each once (PS3.3 C.12.2).
        instances.setdefault(slice_.sop_instance_uid, _item(*reference))
    ds.SourceImageSequence = images
    series = _item(_element("SeriesInstanceUID", "UI", source.series_instance_uid))
    series.ReferencedInstanceSequence = list(instances.values())
    ds.ReferencedSeriesSequence = [series]


def _set_plane(ds: Dataset, source: SourceSlice, series: SourceSeries) -> None:
    """Lie exactly where the CT slice lies, in its frame of reference (PS3.3 C.7.4.1, C.7.6.2)."""
    ds.SliceThickness = None
    ds.PatientPosition = None
    ds.PositionReferenceIndicator = None
    copy_verbatim(source.header, ds, (*IMAGE_PLANE, *ACQUISITION))
    reader = ElementReader(source.header)
    if not reader.present("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = derived_frame_of_reference_uid(source.study_instance_uid, source.series_instance_uid)
    if not reader.present("BodyPartExamined"):
        ds.BodyPartExamined = "HEAD"
    spacing = series.uniform_spacing_mm()
    if spacing is not None:
        ds.SpacingBetweenSlices = DS(spacing, auto_format=True)


def _set_pixels(ds: Dataset, pixels: npt.NDArray[np.uint16]) -> None:
    """Store 12 bits on one fixed scale with one fixed window (PS3.3 C.7.6.3, C.7.6.16.2.11, C.11.2)."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = (int(extent) for extent in pixels.shape)
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.WindowCenter = "2048"
    ds.WindowWidth = "4096"
    ds.WindowCenterWidthExplanation = "SYNTHETIC"
    ds.PresentationLUTShape = "IDENTITY"
    mapping = _item(
        _element("RealWorldValueFirstValueMapped", "US", 0),
        _element("RealWorldValueLastValueMapped", "US", OUTPUT_LEVELS),
    )
    mapping.RealWorldValueIntercept = 0.0
    mapping.RealWorldValueSlope = 1.0 / OUTPUT_LEVELS
    mapping.LUTExplanation = "Fraction of three times the brain median"
    mapping.LUTLabel = "SYNDWI"
    mapping.MeasurementUnitsCodeSequence = [CodedConcept.from_code(codes.UCUM.NoUnits)]
    ds.RealWorldValueMappingSequence = [mapping]
    ds[tag_of("PixelData")] = raw(tag_of("PixelData"), "OW", pixels.astype("<u2").tobytes())


def _set_private_block(ds: Dataset, plan: SeriesPlan) -> None:
    """Provenance for programs. A convenience: de-identifiers remove it, so every safety fact is public as well."""
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", plan.bundle.sha256)
    block.add_new(0x02, "LO", application_version())
    block.add_new(0x03, "UT", plan.record)


def provenance(
    bundle: BundleFacts,
    *,
    input_digest: str,
    notes: tuple[str, ...],
    quality_flags: tuple[str, ...],
    superseded: str | None,
) -> str:
    """JSON text of the private block: what a program needs to trace a result, without patient data."""
    return json.dumps(
        {
            "application": application_version(),
            "highdicom": highdicom.__version__,
            "bundle": bundle.name,
            "bundle_sha256": bundle.sha256,
            "weights_sha256": bundle.weights_sha256,
            "size": bundle.size,
            "training": bundle.training_mark,
            "target": "diffusion-weighted image, b = 1000 s/mm2, synthetic",
            "input_digest": input_digest,
            "notes": list(notes),
            "quality_flags": list(quality_flags),
            "superseded_series_uid": superseded,
        },
        sort_keys=True,
        separators=(",", ":"),
    )
