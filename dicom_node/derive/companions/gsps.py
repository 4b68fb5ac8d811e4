"""The warning as a Grayscale Softcopy Presentation State (PS3.3 A.33.1) over every image of the result.

No measure of safety by itself: a viewer applies it on request. The watermark in the pixels is.
"""

from __future__ import annotations

from typing import Final

from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)

from dicom_node.derive.companions.frame import Frame, finish
from dicom_node.derive.companions.request import SeriesReference
from dicom_node.derive.companions.sources import series_stand_ins
from dicom_node.dicom.companion_labels import WARNING
from dicom_node.dicom.identity import raw, tag_of
from dicom_node.dicom.labels import training_sentence

DESCRIPTION: Final = "Warning for SYNTHETIC DWI from CT (AI) - RESEARCH"
#: Left, top, right, bottom in parts of the displayed area.
_BOX: Final = (0.02, 0.9, 0.98, 0.99)


def encode_warning(frame: Frame, result: SeriesReference, shape: tuple[int, int]) -> bytes:
    """Encode the warning for the images of a result, whose size is `shape`."""
    images = series_stand_ins(result, shape)
    layer = GraphicLayer("WARNING", order=1, description="Warning of the node that made the images")
    mark = frame.facts.training_mark
    text = WARNING if mark is None else f"{WARNING} {mark}. {training_sentence(mark)}"
    ds = GrayscaleSoftcopyPresentationState(
        referenced_images=images,
        content_label="WARNING",
        content_description="Says that the images are synthetic",
        graphic_layers=[layer],
        graphic_annotations=[
            GraphicAnnotation(
                referenced_images=images,
                graphic_layer=layer,
                text_objects=[TextObject(text, units="DISPLAY", bounding_box=_BOX)],
            )
        ],
        # The fixed window of the images.
        voi_lut_transformations=[SoftcopyVOILUTTransformation(window_center=2048, window_width=4096)],
        **frame.document(),
    )
    spacing = frame.images[0].value("PixelSpacing")
    area = ds.DisplayedAreaSelectionSequence[0]
    if spacing:
        # In place of the aspect ratio of square pixels (PS3.3 C.10.4).
        del area.PresentationPixelAspectRatio
        tag = tag_of("PresentationPixelSpacing")
        area[tag] = raw(tag, "DS", spacing)
    return finish(ds, frame)
