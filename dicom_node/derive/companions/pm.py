"""The expected error of the synthetic image as a Parametric Map of 32-bit floats (PS3.3 A.75)."""

from __future__ import annotations

from typing import Final

import highdicom
import numpy as np
import numpy.typing as npt
from highdicom.pm import RealWorldValueMapping
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.frame import Frame, finish, own_code
from dicom_node.derive.companions.planes import place_frames
from dicom_node.derive.companions.sources import image_stand_ins
from dicom_node.derive.lossy import inherit_lossy_compression
from dicom_node.errors import Permanent

DESCRIPTION: Final = "SYNTHETIC DWI from CT (AI) - expected error - RESEARCH"


def encode_expected_error(frame: Frame, expected_error: npt.NDArray[np.float32], shape: tuple[int, ...]) -> bytes:
    """Encode the map, one frame per CT slice.

    Parameters
    ----------
    frame : Frame
        What it has in common with every companion.
    expected_error : numpy.ndarray
        (S, rows, columns) float32 in 0..1: expected absolute error as a fraction of the images' full scale.
    shape : tuple of int
        Of the brain mask, which it has to share.

    Raises
    ------
    Permanent
        `companion_request` when it is no such array.
    """
    if expected_error.dtype != np.float32 or expected_error.shape != shape or len(shape) != 3:
        raise Permanent("companion_request", "the expected error is not float32 on the grid of the brain mask")
    if len(expected_error) != len(frame.images):
        raise Permanent("companion_request", "the expected error does not have one plane per CT slice")
    if not np.isfinite(expected_error).all() or expected_error.min() < 0 or expected_error.max() > 1:
        raise Permanent("companion_request", "the expected error is not finite or not between 0 and 1")
    ds = highdicom.pm.ParametricMap(
        source_images=image_stand_ins(frame.images, (shape[1], shape[2])),
        pixel_array=expected_error,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="EXPERR",
                lut_explanation="Expected absolute error, fraction of full scale",
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1.0,
                intercept=0.0,
                quantity_definition=own_code("EXPERR", "Expected absolute error of the synthetic image"),
            )
        ],
        # With the function LINEAR a width below 1 is an error (PS3.3 C.11.2.1.2).
        voi_lut_transformations=[
            highdicom.VOILUTTransformation(window_center=0.05, window_width=0.1, voi_lut_function="LINEAR_EXACT")
        ],
        derived_pixel_contrast="NONE",
        content_label="EXPECTED_ERROR",
        content_description="What the network expects its own error to be",
        **frame.document(),
    )
    ds.SyntheticData = "YES"
    place_frames(ds, frame.images)
    inherit_lossy_compression(frame.images[0].path, frame.header, ds)
    return finish(ds, frame)
