"""The answer to a CT that was not processed, as one page of text that every viewer shows (PS3.3 A.8.1)."""

from __future__ import annotations

import copy

import highdicom
from pydicom.dataset import Dataset

from dicom_node.derive.companions.frame import Frame, finish
from dicom_node.derive.companions.sources import SERIES, STUDY, unique_instances
from dicom_node.dicom.companion_labels import CLASSES
from dicom_node.dicom.identity import raw, tag_of
from dicom_node.dicom.text_page import PAGE_PX, render_page


def encode_note_page(frame: Frame) -> bytes:
    """Encode the page; its lines are in the facts, against which the sender checks the pixels."""
    sop_class, modality = CLASSES["note-sc"]
    ds = highdicom.SOPClass(study_instance_uid=STUDY, sop_class_uid=sop_class, modality=modality, **frame.document())
    ds.ConversionType = "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.PatientOrientation = None
    ds.BurnedInAnnotation = "NO"
    ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = PAGE_PX
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.WindowCenter = "128"
    ds.WindowWidth = "256"
    ds.PresentationLUTShape = "IDENTITY"
    series = Dataset()
    series.SeriesInstanceUID = SERIES
    series.ReferencedInstanceSequence = []
    for image in unique_instances(frame.images):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = image.instance_stand_in
        series.ReferencedInstanceSequence.append(item)
    ds.ReferencedSeriesSequence = [series]
    ds.ReferencedImageSequence = [copy.deepcopy(item) for item in series.ReferencedInstanceSequence]
    ds[tag_of("PixelData")] = raw(tag_of("PixelData"), "OB", render_page(frame.facts.lines()).tobytes())
    return finish(ds, frame)
