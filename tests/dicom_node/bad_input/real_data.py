"""How each folder of the public test images ends; docs/bad-input.md shows the same table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_DICOM: Final = "no_dicom"


@dataclass(frozen=True, slots=True)
class RealFolder:
    """One folder of public images.

    Attributes
    ----------
    holds : str
        What it is, in words.
    series : dict
        Code of the choice for each SeriesNumber; empty for a folder without DICOM.
    gate : str or None
        Outcome of the geometry gate, where a series is chosen.
    notes : tuple of str
        Codes of the gate's notes.
    end : str
        Where a command or the node ends with it.
    """

    holds: str
    series: dict[int, str]
    end: str
    gate: str | None = None
    notes: tuple[str, ...] = ()


REAL: Final = {
    "ge_head_ct": RealFolder(
        "a head, tilted by 18.5 degrees, 14 slices of 4 mm and 14 of 7 mm",
        {2: "chosen"},
        "28 synthetic slices",
        "note",
        ("tilt", "mixed_thickness", "overlap"),
    ),
    "philips_study": RealFolder(
        "localizer, 28 axial slices of an empty skull phantom, six dose and information screens",
        {100: "localizer", 201: "chosen", 401: "dose_screen"},
        "REFUSED no_brain",
        "pass",
    ),
    "ct_transfer_syntaxes": RealFolder(
        "one slice of a chest in 16 files of different transfer syntaxes", {2: "derived"}, "no_series"
    ),
    "geometry_cases/gantrytilting": RealFolder("four tilted slices", {4: "too_few_slices"}, "no_series"),
    "geometry_cases/sliceincrement": RealFolder("four unevenly spaced slices", {2: "too_few_slices"}, "no_series"),
    "geometry_cases/notavolume": RealFolder("four slices that are no volume", {4: "too_few_slices"}, "no_series"),
    "ge_dwi": RealFolder("diffusion MR", {1: "not_ct"}, "no_series"),
    "toshiba_dwi": RealFolder("diffusion MR", {7006: "not_ct"}, "no_series"),
    "siemens_mosaic": RealFolder("diffusion MR as mosaics", {4: "not_ct"}, "no_series"),
    "mricrogl_head_ct": RealFolder("a head as NIfTI", {}, NO_DICOM),
    "ct_template": RealFolder("a template as NIfTI", {}, NO_DICOM),
    "niivue_dwi": RealFolder("diffusion MR as NIfTI", {}, NO_DICOM),
}
