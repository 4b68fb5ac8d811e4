"""What every reader of a paired CT/DWI archive shares: its options, its result, and its two ways to say no.

A reader answers two questions. `Reader.find` walks a root and lists its cases without opening an image; it raises
`LayoutError` when the root does not look like its layout. `Reader.load` opens one case and raises `CaseRefusedError`
when that case must not be used; the other cases go on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

from train.data.cache import Split

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

__all__ = [
    "AS_STORED",
    "DEFAULT_CENTRE",
    "CaseRefusedError",
    "LayoutError",
    "PairSource",
    "PairVolumes",
    "Reader",
    "ReaderOptions",
    "case_name",
    "checked_sources",
    "tree_of",
]

#: Centre of a case whose archive names none.
DEFAULT_CENTRE: Final = "site"

_NO_FIGURES: Final[Mapping[str, float]] = MappingProxyType({})
_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9._-]+")


class CaseRefusedError(ValueError):
    """Raise this when one case cannot be used; the others go on.

    Parameters
    ----------
    code
        ``no_ct``, ``no_dwi``, ``no_b_value``, ``ct_unit`` (values are no HU), ``ct_window`` (8 bits without a stated
        window), ``off_grid``, ``one_slice``, ``not_finite``, ``duplicate_uid``, ``different_patients``, ``unreadable``,
        ``geometry``, ``lesion_grid`` (label on no grid of the case), ``empty_mask``, ``registration``, ``no_brain``,
        ``fov`` or ``thickness``.
    reason
        One sentence that says what to do; no value of a DICOM header except UIDs.
    figures
        The numbers behind the reason, units in the keys.
    """

    def __init__(self, code: str, reason: str, figures: Mapping[str, float] = _NO_FIGURES) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.figures: Mapping[str, float] = dict(figures)


class LayoutError(ValueError):
    """Raise this when a root does not look like the layout, or its lists contradict themselves.

    Parameters
    ----------
    code
        ``missing`` (no such folder), ``layout`` (not this tree), ``ambiguous``, ``splits`` (a list of splits that
        cannot be read), ``leak`` (a patient in two splits), ``duplicate`` (two cases of one name), ``geometry`` (a
        layout without spacing), ``csv`` or ``option``.
    reason
        What was expected and what to do, with the tree where that helps.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """What a user may have to say about an archive.

    Attributes
    ----------
    ct_unit : {"hu", "window"}
        Whether CT values are Hounsfield units, or grey values of a display window.
    window_hu : (float, float) or None
        Lower and upper HU of that window; needed with "window".
    window_stored : (float, float)
        Stored values of the two ends of the window.
    adc : {"keep", "invert"}
        Targets that are ADC maps: as they are, or as diffusion attenuation exp(-b ADC), b = 1000 s/mm2, which is
        bright where ADC is low.
    apis_mask : {"first", "union", "intersection"}
        How the two readers' masks of APIS become one.
    target : {"dwi", "adc"}
        Which image is wanted where an archive has both; where it has one only, that one is read.
    b_value : float or None
        For DICOM: the b value to take instead of the highest, s/mm2, or that of a series whose headers have none.
    spacing_mm : (float, float, float) or None
        Between slices, rows and columns, for layouts of single slices whose root has no ``geometry.json``.
    """

    ct_unit: Literal["hu", "window"] = "hu"
    window_hu: tuple[float, float] | None = None
    window_stored: tuple[float, float] = (0.0, 255.0)
    adc: Literal["keep", "invert"] = "keep"
    apis_mask: Literal["first", "union", "intersection"] = "first"
    target: Literal["dwi", "adc"] = "dwi"
    b_value: float | None = None
    spacing_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        """Raise `LayoutError` (``option``) where the options contradict themselves."""
        if self.window_hu is not None and not self.window_hu[0] < self.window_hu[1]:
            raise LayoutError("option", f"window_hu must be (low, high) with low < high, not {self.window_hu}")
        if not self.window_stored[0] < self.window_stored[1]:
            raise LayoutError("option", f"window_stored must be (low, high) with low < high, not {self.window_stored}")
        if self.ct_unit == "window" and self.window_hu is None:
            raise LayoutError("option", 'ct_unit = "window" needs the window: window_hu = [low, high] in HU')
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise LayoutError("option", f"spacing_mm must be three positive numbers, not {self.spacing_mm}")


#: CT in HU, ADC as it is, the first reader's mask.
AS_STORED: Final = ReaderOptions()


@dataclass(frozen=True, slots=True)
class PairSource:
    """One case of an archive, found but not opened.

    Attributes
    ----------
    patient : str
        Name of the case, from folders, file names or a table; never from a DICOM header.
    centre : str
        Hospital, as far as the archive tells.
    split : str or None
        Split that the archive prescribes.
    layout : str
        Name of the reader.
    paths : Mapping[str, Path or tuple of Path]
        Files and folders by their part in the pair ("ct", "dwi", "lesion", ...).
    notes : tuple of str
        What a reader of the results must know.
    """

    patient: str
    centre: str
    split: Split | None
    layout: str
    paths: Mapping[str, Path | tuple[Path, ...]]
    notes: tuple[str, ...] = ()

    def path(self, part: str) -> Path | None:
        """One file or folder, or None when the case has none of that part."""
        found = self.paths.get(part)
        if isinstance(found, tuple):
            return found[0] if found else None
        return found

    def files(self, part: str) -> tuple[Path, ...]:
        """All files of a part, in order; empty when there are none."""
        found = self.paths.get(part, ())
        return found if isinstance(found, tuple) else (found,)


@dataclass(frozen=True, slots=True)
class PairVolumes:
    """The images of one case, each in LPS world coordinates, checked, not yet registered.

    Attributes
    ----------
    ct : CtVolume
        In HU.
    dwi : SimpleITK.Image
        float32; diffusion-weighted image of the highest b value, or an ADC map (`target_kind`).
    b0 : SimpleITK.Image or None
        float32, in the space of `dwi`, on a grid of its own; the better moving image for registration.
    lesion : SimpleITK.Image or None
        uint8, 0 or 1. None: nothing is known; all zero: known to have no lesion.
    lesion_space : {"ct", "dwi"}
        The image on whose grid `lesion` lies.
    brain : SimpleITK.Image or None
        uint8, 0 or 1, a given brain mask on the CT's grid.
    same_space : bool
        CT and DWI are registered already.
    target_kind : {"dwi", "adc"}
        What `dwi` holds.
    b_value : float or None
        Of `dwi`, s/mm2; None where the archive does not tell.
    notes : tuple of str
        Findings that do not forbid the case, those of its source included.
    lesion_labels : SimpleITK.Image or None
        uint8 on the grid of `lesion`: the label map as the archive has it, where it knows more than one kind.
    """

    ct: CtVolume
    dwi: sitk.Image
    b0: sitk.Image | None
    lesion: sitk.Image | None
    lesion_space: Literal["ct", "dwi"]
    brain: sitk.Image | None
    same_space: bool
    target_kind: Literal["dwi", "adc"]
    b_value: float | None
    notes: tuple[str, ...]
    lesion_labels: sitk.Image | None = field(default=None)


class Reader(Protocol):
    """One archive layout."""

    @property
    def name(self) -> str:
        """Short name, as written in commands and caches."""

    @property
    def description(self) -> str:
        """One line for a list of layouts."""

    @property
    def expected(self) -> str:
        """The tree that a root must have, several lines."""

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the cases below a root, sorted by name; raises `LayoutError`."""

    def load(self, source: PairSource) -> PairVolumes:
        """Open one case; raises `CaseRefusedError`."""


def case_name(text: str) -> str:
    """Turn a folder or file name into a name that a cache accepts.

    Examples
    --------
    >>> case_name("Study 12 (b)"), case_name("sub-stroke0001")
    ('Study-12-b', 'sub-stroke0001')
    """
    return _UNUSABLE.sub("-", text).strip("-._") or "case"


def checked_sources(root: Path, sources: Iterable[PairSource], expected: str) -> tuple[PairSource, ...]:
    """Sort what a reader found; refuse nothing at all, and two cases of one name.

    Raises
    ------
    LayoutError
        ``layout`` when there is no case; ``duplicate`` when two have one name.
    """
    ordered = tuple(sorted(sources, key=lambda source: source.patient))
    if not ordered:
        raise LayoutError("layout", f"no case found below {root}; expected\n{expected}")
    twice = sorted(name for name, count in Counter(source.patient for source in ordered).items() if count > 1)
    if twice:
        raise LayoutError("duplicate", f"several cases are called {', '.join(twice[:5])}; rename their folders")
    return ordered


def tree_of(docstring: str | None) -> str:
    """The indented tree of a reader's module docstring: the one place that says what a root must look like."""
    lines = (docstring or "").splitlines()
    start = next((index for index, line in enumerate(lines) if line.strip().endswith("::")), -1) + 1
    tree: list[str] = []
    for line in lines[start:]:
        if line and not line.startswith(" "):
            break
        tree.append(line)
    return dedent("\n".join(tree)).strip("\n")
