"""AISD (Liang et al., MICCAI 2021; github.com/GriffinLiang/AISD), as its users' scripts describe the archive.

::

    <root>/                        or the folder above it
      image/<case>/000.png ...     8-bit CT, used only to find the order of the slices; maybe image/image/
      mask/<case>/000.png ...      label values 0 to 5; maybe mask/mask/
      dicom-0/<case>/CT/*.dcm      also dicom-1, dicom-2, dicom-3
      dicom-0/<case>/DWI/*.dcm     called MRI in some cases
      README.md or test_list.txt   optional: the official test cases; <case> is seven digits

Tested on generated look-alikes of this tree only, not on the archive. CT comes from DICOM, never from the PNG. The
lesion is every label above 0; the label map is kept. Cases known to be damaged in dicom-0 are taken from dicom-3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from train.data.cache import Split
from train.data.readers.aisd_slices import labelled_slices
from train.data.readers.base import (
    AS_STORED,
    CaseRefusedError,
    LayoutError,
    PairSource,
    PairVolumes,
    ReaderOptions,
    checked_sources,
    tree_of,
)
from train.data.readers.dicom_pairs import load_ct_series, refused
from train.data.readers.pairs import PairParts, make_pair

if TYPE_CHECKING:
    from jmmda_model.imaging.volume import CtVolume
    from train.data.diffusion import DiffusionVolumes

__all__ = ["AisdReader", "official_test_cases"]

_EXPECTED: Final = tree_of(__doc__)
_CASE: Final = re.compile(r"\d{7}\Z")
_CASES_IN_TEXT: Final = re.compile(r"(?<!\d)\d{7}(?!\d)")
#: Number of official test cases that the README announces.
_TEST_CASES: Final = 52
#: Users report that these are damaged in dicom-0; they are taken from dicom-3 or refused.
_ONLY_DICOM_3: Final = frozenset({"0091465", "0091468", "0091505", "0091519"})
#: Perhaps this one too: dicom-3 is preferred.
_RATHER_DICOM_3: Final = _ONLY_DICOM_3 | {"0073366"}


def official_test_cases(root: Path) -> tuple[frozenset[str], str]:
    """Read the official test cases from ``test_list.txt`` or the archive's README.

    Returns
    -------
    frozenset of str
        Seven-digit cases; empty when no file lists them. None is ever assumed.
    str
        A note for every case: where the list is from, or that there is none.
    """
    for name in ("test_list.txt", "README.md", "README.txt", "README"):
        for path in (root / name, root.parent / name):
            if not path.is_file():
                continue
            cases = frozenset(_CASES_IN_TEXT.findall(path.read_text(encoding="utf-8", errors="replace")))
            # A README mentions other cases too when it is not the official one; a list is taken as it is.
            if cases and (name == "test_list.txt" or len(cases) == _TEST_CASES):
                odd = "" if len(cases) == _TEST_CASES else f", not the official {_TEST_CASES}"
                return cases, f"test split: {len(cases)} cases of {name}{odd}"
    return frozenset(), (
        "official test list not found: to keep it, put test_list.txt into the root with the "
        f"{_TEST_CASES} cases that the archive's README lists"
    )


@dataclass(frozen=True, slots=True)
class AisdReader:
    """Reader of AISD."""

    options: ReaderOptions = AS_STORED
    name: str = "aisd"
    description: str = "AISD: CT and DWI as DICOM, lesion masks as PNG"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the cases that have a mask or DICOM files; see `Reader.find`.

        Raises
        ------
        LayoutError
            ``layout`` without mask/ or dicom-N/; ``splits`` when no case of the test list is there.
        """
        base = next((place for place in (root, root / "aisd", root / "AISD") if _has_parts(place)), None)
        if base is None:
            raise LayoutError(
                "layout", f"there is no mask/ with dicom-0/ to dicom-3/ in {root}; expected\n{self.expected}"
            )
        tests, note = official_test_cases(base)
        sources = tuple(self._sources(base, tests, note))
        if tests and not any(source.split == "test" for source in sources):
            raise LayoutError("splits", f"none of the {len(tests)} cases of the test list is in {base}")
        return checked_sources(root, sources, self.expected)

    def _sources(self, base: Path, tests: frozenset[str], note: str) -> Iterator[PairSource]:
        masks, images = _cases_of(base / "mask"), _cases_of(base / "image")
        dicom = [_cases_of(base / f"dicom-{number}") for number in range(4)]
        for case in sorted(masks.keys() | {case for part in dicom for case in part}):
            split: Split | None = "test" if case in tests else None
            paths = {"dicom": _dicom_folder(case, dicom), "masks": masks.get(case), "images": images.get(case)}
            known = {part: path for part, path in paths.items() if path is not None}
            yield PairSource(case, self.name, split, self.name, known, (note,))

    def load(self, source: PairSource) -> PairVolumes:
        """Read one case; CT slices without a PNG are cut off, since it is not known whether they show a lesion.

        Raises
        ------
        CaseRefusedError
            ``no_ct``, ``no_dwi``, ``lesion_grid`` (PNG and CT slices cannot be matched, or a mask with a lesion has no
            CT slice), ``unreadable`` (a case that must come from dicom-3), or the code of `train.data.diffusion`.
        """
        folder = source.path("dicom")
        if folder is None:
            raise CaseRefusedError("no_ct", "the case is in none of dicom-0 to dicom-3; download the missing part")
        if source.patient in _ONLY_DICOM_3 and folder.parent.name != "dicom-3":
            reason = "the case is known to be damaged outside dicom-3; download dicom-3"
            raise CaseRefusedError("unreadable", reason)
        ct, key, ct_notes = _read_ct(folder, self.options)
        diffusion, other_key = _read_dwi(folder, self.options)
        notes = (*ct_notes, *diffusion.notes)
        if key and other_key and key != other_key:
            notes = (*notes, "PatientID of CT and DWI differ; the archive pairs them by their folder")
        lesion = None
        if source.path("masks") is not None:
            ct, lesion, note = labelled_slices(ct, source.path("images"), source.path("masks"))
            notes = (*notes, note)
        parts = PairParts(
            ct=ct,
            dwi=diffusion.dwi,
            b0=diffusion.b0,
            lesion=lesion,
            same_space=False,
            b_value=diffusion.b_value,
            notes=notes,
        )
        return make_pair(source, parts, self.options)


def _has_parts(base: Path) -> bool:
    return (base / "mask").is_dir() and any((base / f"dicom-{number}").is_dir() for number in range(4))


def _cases_of(folder: Path) -> dict[str, Path]:
    """Folders of seven digits, here or one level below under the same name (the archives are packed either way)."""
    places = (folder, folder / folder.name)
    return {path.name: path for place in places for path in place.glob("*") if path.is_dir() and _CASE.match(path.name)}


def _dicom_folder(case: str, parts: list[dict[str, Path]]) -> Path | None:
    order = reversed(parts) if case in _RATHER_DICOM_3 else iter(parts)
    return next((part[case] for part in order if case in part), None)


def _read_ct(folder: Path, options: ReaderOptions) -> tuple[CtVolume, str, tuple[str, ...]]:
    """The CT of a case, the key of its patient, and notes."""
    from train.data.diffusion import DiffusionError, find_series

    place = folder / "CT"
    if not place.is_dir():
        raise CaseRefusedError("no_ct", "the case has no folder CT; download it again")
    try:
        series = [item for item in find_series(place) if item.kind == "ct"]
        if not series:
            raise CaseRefusedError("no_ct", "the folder CT holds no CT series")
        best = max(series, key=lambda item: (item.n_slices, item.series_instance_uid))
        notes = () if len(series) == 1 else (f"{len(series)} CT series, the one with most slices is taken",)
        return load_ct_series(best, options), best.same_patient_key, notes
    except DiffusionError as error:
        raise refused(error) from error


def _read_dwi(folder: Path, options: ReaderOptions) -> tuple[DiffusionVolumes, str]:
    """The DWI of a case; without b values the volume with the darkest fluid, since the folder says what it is."""
    from train.data.diffusion import DiffusionError, find_series, read_diffusion

    place = next((folder / name for name in ("DWI", "MRI") if (folder / name).is_dir()), None)
    if place is None:
        raise CaseRefusedError("no_dwi", "the case has neither a folder DWI nor MRI; download it again")
    try:
        found = find_series(place)
        series = [item for item in found if item.kind in ("dwi", "trace")]
        note = ""
        if not series:
            # Headers stripped of every sign of diffusion: the archive's folder is all there is.
            series = [replace(item, kind="dwi") for item in found if item.modality == "MR" and item.kind == "other"]
            note = "no header says that the series is diffusion weighted; the folder does"
        if not series:
            raise CaseRefusedError("no_dwi", f"the folder {place.name} holds no diffusion series")
        best = max(series, key=lambda item: (max(item.b_values, default=0.0), item.n_slices, item.series_instance_uid))
        volumes = read_diffusion(best, b_value=options.b_value, guess_without_b_value=True)
    except DiffusionError as error:
        raise refused(error) from error
    more = f"{len(series)} diffusion series, the one with the highest b value is taken" if len(series) > 1 else ""
    notes = (*volumes.notes, *(text for text in (note, more) if text))
    return replace(volumes, notes=notes), best.same_patient_key
