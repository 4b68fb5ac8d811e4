"""Enhanced CT for tests: made by hand from classic slices, and converted by highdicom. All identities are invented."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.dicom.reading import quiet_pydicom
from tests.dicom_node.dicom.builders import ct_dataset, uid

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
_OF_A_SLICE = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation"),
    *("RescaleIntercept", "RescaleSlope", "ConvolutionKernel", "InstanceNumber", "AcquisitionNumber", "ImageType"),
    *("BodyPartExamined",),
)


def item(**values: object) -> Dataset:
    """An item of a sequence."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def classic_stack(n: int = 24, **attributes: object) -> list[Dataset]:
    """Classic slices of an axial head, 5 mm apart, with an intercept of their own each."""
    return [
        ct_dataset(
            k,
            position=(-120.0, -130.0, 5.0 * k),
            intercept=-1024.0 - k,
            series="classic",
            **attributes,  # type: ignore[arg-type]
        )
        for k in range(n)
    ]


def _groups(source: Dataset, number: int) -> Dataset:
    return item(
        FrameContentSequence=[
            item(
                FrameAcquisitionNumber=1,
                FrameAcquisitionDateTime=f"20240102101{number % 10}12.5+0100",
                StackID="1",
                InStackPositionNumber=number,
                DimensionIndexValues=[1, number],
            )
        ],
        PlanePositionSequence=[item(ImagePositionPatient=source.ImagePositionPatient)],
        PixelValueTransformationSequence=[
            item(RescaleIntercept=source.RescaleIntercept, RescaleSlope=source.RescaleSlope, RescaleType="HU")
        ],
        CTImageFrameTypeSequence=[item(FrameType=[*source.ImageType[:3], "NONE"])],
    )


def enhanced_ct(
    slices: Sequence[Dataset], change: Callable[[Dataset], None] | None = None, *, name: str = "enhanced"
) -> Dataset:
    """One Enhanced CT object with the frames in the order of the slices; `change` may spoil it."""
    first = copy.deepcopy(slices[0])
    dataset = Dataset()
    dataset.file_meta = first.file_meta
    dataset.update({element.tag: element for element in first if element.keyword not in _OF_A_SLICE})
    dataset.SOPClassUID = ENHANCED_CT
    dataset.SOPInstanceUID = uid(name)
    dataset.SeriesInstanceUID = uid("series of", name)
    dataset.InstanceNumber = "1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(slices)
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=first.ImageOrientationPatient)],
            PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
            CTReconstructionSequence=[item(ConvolutionKernel=first.ConvolutionKernel)],
            FrameAnatomySequence=[item(AnatomicRegionSequence=[code("69536005", "SCT", "Head")], FrameLaterality="U")],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [_groups(one, k + 1) for k, one in enumerate(slices)]
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    dataset["PixelData"].VR = "OW"
    if change is not None:
        change(dataset)
    return dataset


def converted(paths: Sequence[Path], target: Path, **options: object) -> Path:
    """Have highdicom convert classic files into one Legacy Converted Enhanced CT object."""
    with quiet_pydicom():
        image = highdicom.legacy.LegacyConvertedEnhancedCTImage(
            [pydicom.dcmread(path) for path in paths],
            series_instance_uid=uid("converted series", *paths),
            series_number=7,
            sop_instance_uid=uid("converted", *paths),
            instance_number=1,
            **{"transfer_syntax_uid": ExplicitVRLittleEndian, **options},
        )
        image.save_as(target)
    return target


def stored(dataset: Dataset) -> np.ndarray:
    """Stored values of all frames, (frames, rows, columns)."""
    shape = (int(dataset.get("NumberOfFrames", 1)), dataset.Rows, dataset.Columns)
    return np.frombuffer(dataset.PixelData, dtype="<u2").reshape(shape)
