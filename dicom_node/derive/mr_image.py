"""The default object: one MR Image Storage instance per CT slice, built on `highdicom.SOPClass`.

The MR class is used because every viewer puts it where the CT is: its image plane is mandatory. Its honest markers
are part of it: ImageType SYNTHETIC, ScanningSequence RM (research mode), SyntheticData YES, no acquisition
parameter, no attribute of diffusion, and texts that say what it is not.
"""

from __future__ import annotations

import highdicom

from dicom_node.derive.image_common import ImagePlan, SeriesPlan, constructor_arguments, finish
from dicom_node.dicom.labels import EMPTY_ACQUISITION_PARAMETERS, OBJECT_CLASSES


class SyntheticMRImage(highdicom.SOPClass):  # type: ignore[misc]
    """One synthetic image in the plane of one CT slice, as MR Image Storage (PS3.3 A.4).

    Parameters
    ----------
    plan : SeriesPlan
        What is the same in the whole series.
    image : ImagePlan
        What is of this image alone.
    """

    def __init__(self, plan: SeriesPlan, image: ImagePlan) -> None:
        kind = OBJECT_CLASSES["mr"]
        super().__init__(sop_class_uid=kind.sop_class_uid, modality=kind.modality, **constructor_arguments(plan, image))
        # MR Image module (PS3.3 C.8.3.1): research mode is the honest value; no parameter was ever set on a scanner.
        self.ScanningSequence = "RM"
        self.SequenceVariant = "NONE"
        for keyword in EMPTY_ACQUISITION_PARAMETERS:
            setattr(self, keyword, None)
        finish(self, plan, image)
