"""Layouts of single slices: their names, the geometry that a PNG cannot hold, and stacks made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.volume import CtVolume, FloatArray
from train.data.cache import Split
from train.data.readers.base import CaseRefusedError, LayoutError, PairSource, ReaderOptions, case_name
from train.data.readers.image_files import read_slice
from train.data.readers.split_files import SPLIT_WORDS

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "GEOMETRY_FILE",
    "SLICE_SUFFIXES",
    "parse_slice_name",
    "read_spacing_mm",
    "read_stack",
    "slices_by_patient",
    "spacing_of",
    "split_folders",
    "stack_ct",
    "stack_image",
]

GEOMETRY_FILE: Final = "geometry.json"
SLICE_SUFFIXES: Final = (".npy", ".png")
_NUMBER: Final = re.compile(r"\d+\Z")
Spacing = tuple[float, float, float]
"""Between slices, rows and columns, mm."""


def parse_slice_name(stem: str) -> tuple[str, int]:
    """Take a file's name without suffix apart: patient before the last underscore, number of the slice after it.

    Raises
    ------
    LayoutError
        ``layout`` for a name without underscore, patient or number.

    Examples
    --------
    >>> parse_slice_name("centre_A_007_012")
    ('centre_A_007', 12)
    """
    patient, underscore, number = stem.rpartition("_")
    if not underscore or not patient or not (number.isascii() and _NUMBER.match(number)):
        raise LayoutError("layout", f"{stem!r} is not <patient>_<slice>: a patient, an underscore, a number")
    return patient, int(number)


def slices_by_patient(folder: Path) -> dict[str, dict[int, Path]]:
    """Files of a folder by patient and slice, both in order; empty when the folder is not there.

    Raises
    ------
    LayoutError
        ``layout`` for a name that does not parse; ``duplicate`` for a slice that is there twice (``_1`` and ``_01``,
        npy and png).
    """
    found: dict[str, dict[int, Path]] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix not in SLICE_SUFFIXES:
            continue
        patient, number = parse_slice_name(path.stem)
        slices = found.setdefault(case_name(patient), {})
        if number in slices:
            raise LayoutError("duplicate", f"{slices[number].name} and {path.name} are one slice; remove one")
        slices[number] = path
    return {patient: dict(sorted(slices.items())) for patient, slices in sorted(found.items())}


def split_folders(root: Path) -> dict[Path, Split]:
    """The folders train, val (or validation) and test of a root that are there."""
    return {root / word: split for word, split in SPLIT_WORDS.items() if (root / word).is_dir()}


def read_spacing_mm(root: Path, options: ReaderOptions, patient: str | None = None) -> Spacing:
    """Spacing of the slices of a root: from the options, else from ``geometry.json``.

    The file is ``{"spacing_mm": [5.0, 0.45, 0.45], "patients": {"p02": [2.5, 0.45, 0.45]}}``; "patients" holds those
    that differ and may be absent.

    Raises
    ------
    LayoutError
        ``geometry`` where neither tells three positive numbers.
    """
    if options.spacing_mm is not None:
        return options.spacing_mm
    path = root / GEOMETRY_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        chosen = content.get("patients", {}).get(patient, content["spacing_mm"])
        numbers = [float(number) for number in chosen]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        numbers = []
    if len(numbers) != 3 or not all(0 < number < 1000 for number in numbers):
        reason = (
            f"slices have no spacing: write {GEOMETRY_FILE} into {root} with the distances between slices, rows and "
            'columns in mm, {"spacing_mm": [5.0, 0.45, 0.45]}'
        )
        raise LayoutError("geometry", reason)
    return numbers[0], numbers[1], numbers[2]


def spacing_of(source: PairSource, options: ReaderOptions) -> Spacing:
    """Spacing of a case that was found: as `read_spacing_mm`, beside the geometry file among its paths.

    Raises
    ------
    CaseRefusedError
        ``geometry`` where the file has gone or changed since.
    """
    path = source.path("geometry")
    assert path is not None, "find names the geometry file"
    try:
        return read_spacing_mm(path.parent, options, source.patient)
    except LayoutError as error:
        raise CaseRefusedError(error.code, error.reason) from error


def read_stack(slices: Mapping[int, Path], what: str, wanted: Iterable[int]) -> npt.NDArray[Any]:
    """Stack slices of one patient, (S, rows, columns).

    Parameters
    ----------
    slices : Mapping[int, Path]
        Files by number.
    what : str
        "ct", "dwi", ...: for messages.
    wanted : iterable of int
        The numbers that must be there, in order.

    Raises
    ------
    CaseRefusedError
        ``geometry`` for a missing slice or slices of different sizes, ``one_slice``, ``unreadable``.
    """
    numbers = list(wanted)
    missing = [number for number in numbers if number not in slices]
    if missing or len(slices) != len(numbers):
        reason = f"{what}: {len(slices)} slices where {len(numbers)} are needed; add or remove files so that all agree"
        figures = {"slices": float(len(slices)), "needed": float(len(numbers))}
        raise CaseRefusedError("geometry", reason, figures | ({"missing_slice": float(missing[0])} if missing else {}))
    if len(numbers) < 2:
        raise CaseRefusedError("one_slice", f"{what}: one slice; a pair needs a stack", {"slices": float(len(numbers))})
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gap = next(a for a, b in pairwise(numbers) if b != a + 1) + 1
        raise CaseRefusedError(
            "geometry", f"{what}: slice {gap} is missing in the middle", {"missing_slice": float(gap)}
        )
    images = [read_slice(slices[number]) for number in numbers]
    if len({image.shape for image in images}) != 1:
        raise CaseRefusedError("geometry", f"{what}: slices of different sizes; export them on one grid")
    return np.stack(images)


def stack_ct(hu: FloatArray, spacing_mm: Spacing) -> CtVolume:
    """Place slices (S, rows, columns) in the world as standard axial display shows them.

    The first slice is the lowest, the first row anterior, the first column the patient's right; the centre is the
    origin.
    """
    count, rows, columns = hu.shape
    slices_mm, rows_mm, columns_mm = spacing_mm
    corner = np.array([-(columns - 1) / 2 * columns_mm, -(rows - 1) / 2 * rows_mm, -(count - 1) / 2 * slices_mm])
    positions = corner + np.arange(count)[:, None] * np.array([0.0, 0.0, slices_mm])
    return CtVolume(hu, positions, np.eye(3)[:2], (rows_mm, columns_mm), np.full(count, slices_mm))


def stack_image(values: npt.NDArray[Any], like: CtVolume, what: str) -> sitk.Image:
    """Give slices the geometry of the CT they were exported with.

    Raises
    ------
    CaseRefusedError
        ``geometry`` when their size differs from the CT's.
    """
    from train.data.readers.volumes import image_on_ct

    if values.shape != like.hu.shape:
        figures = {"rows": float(values.shape[1]), "columns": float(values.shape[2])}
        raise CaseRefusedError("geometry", f"{what}: slices of another size than the CT's; export one grid", figures)
    return image_on_ct(values, like)
