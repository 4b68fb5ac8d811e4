"""The site option `object = "sc"`: one Secondary Capture instance per CT slice, built on `highdicom.sc.SCImage`.

Modality OT keeps the series out of rules that react to MR (routing, billing, hanging, other AI). Pixels, labels,
references and geometry are those of the MR object; the image plane, which Secondary Capture does not ask for, is
written all the same, so that viewers which read it put the series where the CT is.
"""

from __future__ import annotations

from typing import Final

import highdicom
import numpy as np
import numpy.typing as npt

from dicom_node.derive.image_common import ImagePlan, SeriesPlan, constructor_arguments, finish
from dicom_node.dicom.labels import MANUFACTURER, MODEL_NAME
from dicom_node.dicom.uids import application_version

#: Where an axis of the patient points, and where its opposite does (PS3.3 C.7.6.1.1.1, left-posterior-head system).
_TOWARDS: Final = ("L", "P", "H")
_AWAY: Final = ("R", "A", "F")


def patient_orientation(orientation: npt.NDArray[np.float64]) -> tuple[str, str]:
    """Letters of the directions in which columns and rows of an image count up (PatientOrientation).

    Parameters
    ----------
    orientation : numpy.ndarray
        (2, 3) direction cosines of a row and of a column.

    Returns
    -------
    tuple of str
        For each the nearest axis of the patient, such as ``("L", "P")`` for a supine head seen from the feet.
    """
    across, down = orientation
    row_axis = int(np.argmax(np.abs(across)))
    # Never the same axis twice, whatever an oblique plane looks like.
    column_axis = max((axis for axis in range(3) if axis != row_axis), key=lambda axis: abs(float(down[axis])))
    return _letter(across, row_axis), _letter(down, column_axis)


def _letter(direction: npt.NDArray[np.float64], axis: int) -> str:
    return (_TOWARDS if direction[axis] > 0 else _AWAY)[axis]


class SyntheticSCImage(highdicom.sc.SCImage):  # type: ignore[misc]
    """One synthetic image in the plane of one CT slice, as Secondary Capture Image Storage (PS3.3 A.8.1).

    Parameters
    ----------
    plan : SeriesPlan
        What is the same in the whole series.
    image : ImagePlan
        What is of this image alone.
    """

    def __init__(self, plan: SeriesPlan, image: ImagePlan) -> None:
        super().__init__(
            pixel_array=image.pixels,
            photometric_interpretation="MONOCHROME2",
            # 12 passes the checks of highdicom and fails in its encoder; `finish` says that 12 of 16 bits are used.
            bits_allocated=16,
            coordinate_system="PATIENT",
            patient_orientation=patient_orientation(image.source.orientation),
            **constructor_arguments(plan, image),
        )
        # SC Equipment and SC Image modules (PS3.3 C.8.6.1, C.8.6.2).
        self.ConversionType = "SYN"
        self.SecondaryCaptureDeviceManufacturer = MANUFACTURER
        self.SecondaryCaptureDeviceManufacturerModelName = MODEL_NAME
        self.SecondaryCaptureDeviceSoftwareVersions = application_version()
        self.DateOfSecondaryCapture = self.ContentDate
        self.TimeOfSecondaryCapture = self.ContentTime
        # Modality LUT (PS3.3 C.11.1): stored values are what is shown, and they are no Hounsfield units.
        self.RescaleIntercept = "0"
        self.RescaleSlope = "1"
        self.RescaleType = "US"
        finish(self, plan, image)
