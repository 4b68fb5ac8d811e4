"""Bad input in content: where slices lie, and what else is in the series and the study."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from tests.dicom_node.bad_input.bad_node import GOOD, STEP_MM, BadNode
from tests.dicom_node.bad_input.case_table import SCANNER, SLICES_MISSING, Look, Table, slices
from tests.dicom_node.dicom.builders import axial_orientation, spacing_along_table, uid

SERIES: Final = Table("Geometry, and what else is in the study")

_RULES: Final = "nothing, or see `[selection]` if such series are wanted"


# --- geometry ------------------------------------------------------------------------------------------------------


def _tilted(node: BadNode, tilt_deg: float) -> list[Dataset]:
    stack = node.stack()
    step = spacing_along_table(STEP_MM, tilt_deg)
    for index, dataset in enumerate(stack):
        dataset.ImageOrientationPatient = [f"{value:.8f}" for value in axial_orientation(tilt_deg)]
        dataset.ImagePositionPatient = ["-120", "-130", f"{step * index:.6f}"]
    return stack


for _tilt in (20.0, -20.0):

    @SERIES.case(
        f"a gantry tilt of {_tilt:+g} degrees",
        "processes each slice on its own plane, with the note `tilt`",
    )
    def _gantry(node: BadNode, tilt_deg: float = _tilt) -> Look:
        node.send(_tilted(node, tilt_deg))
        return lambda: slices(node, GOOD, "tilt")


@SERIES.case("a tilt of 35 degrees", "refuses, with the angle", advice=SCANNER, ends="REFUSED orientation")
def _gantry_too_far(node: BadNode) -> None:
    node.send(_tilted(node, 35.0))


@SERIES.case(
    "two slice thicknesses in one series, contiguous",
    "counts each slice with its own thickness, with the note `mixed_thickness`",
)
def _two_thicknesses(node: BadNode) -> Look:
    low, high = node.stack(8), node.stack(14, start=8)
    for index, dataset in enumerate(high):
        dataset.SliceThickness = "4"
        dataset.ImagePositionPatient = ["-120", "-130", f"{7 * STEP_MM + 6 + 4 * index:g}"]
    node.send([*low, *high])
    return lambda: slices(node, 22, "mixed_thickness")


@SERIES.case(
    "a slice of another matrix or pixel spacing", "refuses, with the slices", advice=SCANNER,
    ends="REFUSED in_plane_mismatch",
)  # fmt: skip
def _other_matrix(node: BadNode) -> None:
    stack = node.stack()
    node.send([*stack[:6], *node.stack(1, start=6, rows=32, columns=32), *stack[7:]])


@SERIES.case(
    "slices that are not parallel", "refuses, with the angle", advice=SCANNER, ends="REFUSED orientation_spread"
)
def _not_parallel(node: BadNode) -> None:
    stack = node.stack()
    stack[5].ImageOrientationPatient = [f"{value:.8f}" for value in axial_orientation(4.0)]
    node.send(stack)


@SERIES.case("coronal slices alone", "stores them", advice=_RULES, ends="SKIPPED orientation")
def _coronal(node: BadNode) -> None:
    stack = node.stack()
    for index, dataset in enumerate(stack):
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
        dataset.ImagePositionPatient = ["-120", f"{8 * index}", "130"]
    node.send(stack)


# --- which series --------------------------------------------------------------------------------------------------


@SERIES.case(
    "a perfusion series: four images at each position",
    "stores it and chooses another series of the study",
    advice=_RULES,
    ends={"series": "QUEUED", "other": "SKIPPED perfusion"},
)
def _perfusion(node: BadNode) -> None:
    times = [dataset for time in range(4) for dataset in node.stack(8, series="other", AcquisitionNumber=str(time))]
    for number, dataset in enumerate(times):
        dataset.SOPInstanceUID = uid(node.study, "perfusion", number)
    node.send([*times, *node.stack()])


@SERIES.case(
    "series with contrast medium: by ContrastBolusAgent, by the description",
    "stores them and chooses the one without",
    advice=_RULES,
    ends={"series": "QUEUED", "contrast": "SKIPPED contrast", "other": "SKIPPED contrast"},
)
def _contrast(node: BadNode) -> None:
    marked = node.stack(series="contrast", ContrastBolusAgent="INVENTED 300")
    node.send([*marked, *node.stack(series="other", SeriesDescription="HEAD CTA"), *node.stack()])


@SERIES.case(
    "a bone kernel beside a soft one",
    "stores it and chooses the soft one",
    advice=_RULES,
    ends={"series": "QUEUED", "bone": "SKIPPED bone_kernel"},
)
def _bone(node: BadNode) -> None:
    node.send([*node.stack(series="bone", ConvolutionKernel="H70h"), *node.stack()])


def _screens(node: BadNode, n: int, series: str, start: int = 0) -> list[Dataset]:
    stack = node.stack(n, series=series, start=start, ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"])
    for dataset in stack:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    return stack


def _localizers(node: BadNode, n: int, series: str, start: int = 0) -> list[Dataset]:
    stack = node.stack(n, series=series, start=start, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for dataset in stack:
        dataset.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    return stack


@SERIES.case(
    "localizers and dose screens as series of their own",
    "stores them and chooses the head",
    ends={"series": "QUEUED", "scout": "SKIPPED localizer", "screens": "SKIPPED dose_screen"},
)
def _beside(node: BadNode) -> None:
    node.send([*_localizers(node, 2, "scout"), *_screens(node, 3, "screens"), *node.stack()])


@SERIES.case(
    "localizers and dose screens and nothing else",
    "stores them; the study gets no result",
    ends={"scout": "SKIPPED localizer", "screens": "SKIPPED dose_screen"},
)
def _nothing_else(node: BadNode) -> None:
    node.send([*_localizers(node, 2, "scout"), *_screens(node, 3, "screens")])


@SERIES.case(
    "a dose screen inside the series of slices",
    "leaves it out, with the note `not_a_slice`",
)
def _screen_inside(node: BadNode) -> Look:
    node.send([*node.stack(), *_screens(node, 1, "series", start=GOOD)])
    return lambda: slices(node, GOOD, "not_a_slice")


@SERIES.case(
    "a sagittal view inside the series that is not marked as a localizer",
    "leaves it out, with the note `other_view`",
)
def _view_inside(node: BadNode) -> Look:
    [odd] = node.stack(1, start=GOOD)
    odd.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    node.send([odd, *node.stack()])
    return lambda: slices(node, GOOD, "other_view")


for _n in (1, 2, 3):

    @SERIES.case(
        f"{_n} slice{'' if _n == 1 else 's'} and nothing else",
        "stores them; the study gets no result",
        advice=SLICES_MISSING,
        ends="SKIPPED too_few_slices",
    )
    def _few(node: BadNode, n: int = _n) -> None:
        node.send(node.stack(n))


@SERIES.case(
    "objects of other modalities alone (MR, structured report)",
    "stores them; the study gets no result",
    ends={"series": "SKIPPED not_ct", "other": "SKIPPED not_ct"},
)
def _other_modalities(node: BadNode) -> None:
    foreign = node.stack(9, Modality="MR")
    for dataset in foreign:
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    [report] = node.stack(1, series="other", Modality="SR", ImagePositionPatient=None, PixelData=None)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    node.send([*foreign, report])


@SERIES.case(
    "derived images, and images marked as synthetic",
    "stores them and never processes them",
    ends={"series": "SKIPPED loop_guard", "other": "SKIPPED loop_guard"},
)
def _derived(node: BadNode) -> None:
    synthetic = node.stack(series="other")
    for dataset in synthetic:
        dataset.add_new((0x0008, 0x001C), "CS", "YES")
    node.send([*node.stack(ImageType=["DERIVED", "SECONDARY", "AXIAL"]), *synthetic])
