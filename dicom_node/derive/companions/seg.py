"""The brain mask as a Segmentation (PS3.3 A.51): a segment of the real CT, hence no synthetic data."""

from __future__ import annotations

from typing import Final

import highdicom
import numpy as np
import numpy.typing as npt
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.frame import Frame, finish
from dicom_node.derive.companions.planes import place_frames
from dicom_node.derive.companions.sources import image_stand_ins
from dicom_node.derive.lossy import inherit_lossy_compression
from dicom_node.dicom.labels import MANUFACTURER
from dicom_node.dicom.uids import application_version
from dicom_node.errors import Permanent

DESCRIPTION: Final = "Brain mask of CT (AI) - RESEARCH"
ALGORITHM: Final = "jmmda-node brain mask"


def encode_mask(frame: Frame, mask: npt.NDArray[np.bool_]) -> bytes:
    """Encode the brain mask; frames without brain are left out.

    Raises
    ------
    Permanent
        `companion_request` when there is no brain in the mask, or the mask is not that of the CT slices.
    """
    if mask.ndim != 3 or len(mask) != len(frame.images):
        raise Permanent("companion_request", "the mask does not have one plane per CT slice")
    if not mask.any():
        raise Permanent("companion_request", "the brain mask is empty")
    ds = highdicom.seg.Segmentation(
        source_images=image_stand_ins(frame.images, (mask.shape[1], mask.shape[2])),
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=1,
                segment_label="Brain",
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=codes.SCT.Brain,
                algorithm_type="AUTOMATIC",
                algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                    name=ALGORITHM,
                    # The mask comes from bone and morphology, not from the network.
                    family=codes.DCM.MorphologicalOperations,
                    version=application_version(),
                    source=MANUFACTURER,
                ),
            )
        ],
        omit_empty_frames=True,
        content_label="BRAIN_MASK",
        content_description="Brain as found on the CT; decides where synthetic pixels are",
        **frame.document(),
    )
    place_frames(ds, frame.images)
    inherit_lossy_compression(frame.images[0].path, frame.header, ds)
    return finish(ds, frame)
