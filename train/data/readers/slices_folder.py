"""Single slices in folders by split and kind.

::

    <root>/
      geometry.json                          {"spacing_mm": [5.0, 0.45, 0.45]}: between slices, rows, columns
      train/  val/  test/
        ct/<patient>_<slice>.npy             HU; or .png, 8 or 16 bits of a display window that the options state
        dwi/<patient>_<slice>.{npy,png}      same slices, same size
        mask/<patient>_<slice>.{npy,png}     optional: brain
        lesion/<patient>_<slice>.{npy,png}   optional: lesion, all zero where there is none

The patient is what stands before the last underscore; slices count from below, rows from anterior, columns from the
patient's right. A patient whose slices are in two splits is refused for the whole root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from train.data.cache import Split
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
from train.data.readers.pairs import PairParts, make_pair
from train.data.readers.slice_names import (
    GEOMETRY_FILE,
    parse_slice_name,
    read_spacing_mm,
    read_stack,
    slices_by_patient,
    spacing_of,
    split_folders,
    stack_ct,
    stack_image,
)
from train.data.readers.split_files import centre_of, no_leak
from train.data.readers.volumes import hounsfield

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

__all__ = ["SlicesFolderReader"]

_EXPECTED: Final = tree_of(__doc__)
_KINDS: Final = {"ct": "ct", "dwi": "dwi", "brain": "mask", "lesion": "lesion"}


@dataclass(frozen=True, slots=True)
class SlicesFolderReader:
    """Reader of ``{train,val,test}/{ct,dwi,mask,lesion}/<patient>_<slice>``."""

    options: ReaderOptions = AS_STORED
    name: str = "folder"
    description: str = "single slices: train, val, test / ct, dwi, mask, lesion / <patient>_<slice>.npy or .png"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the patients of all splits.

        Raises
        ------
        LayoutError
            ``layout``, ``duplicate``, ``geometry`` without spacing, ``leak`` for a patient in two splits.
        """
        folders = {folder: split for folder, split in split_folders(root).items() if (folder / "ct").is_dir()}
        if not folders:
            raise LayoutError("layout", f"there is no train/ct, val/ct or test/ct in {root}; expected\n{self.expected}")
        sources = [source for folder, split in folders.items() for source in self._sources(root, folder, split)]
        for source in sources:
            read_spacing_mm(root, self.options, source.patient)
        no_leak((source.patient, source.split) for source in sources if source.split is not None)
        return checked_sources(root, sources, self.expected)

    def _sources(self, root: Path, folder: Path, split: Split) -> Iterator[PairSource]:
        kinds = {kind: slices_by_patient(folder / name) for kind, name in _KINDS.items()}
        for patient in sorted({patient for found in kinds.values() for patient in found}):
            paths: dict[str, Path | tuple[Path, ...]] = {
                kind: tuple(found[patient].values()) for kind, found in kinds.items() if patient in found
            }
            yield PairSource(
                patient, centre_of(folder, root), split, self.name, {**paths, "geometry": root / GEOMETRY_FILE}
            )

    def load(self, source: PairSource) -> PairVolumes:
        """Stack the slices of one patient.

        Raises
        ------
        CaseRefusedError
            ``no_ct``, ``no_dwi``, ``geometry`` for slices that do not agree, ``ct_window`` for PNG without a stated
            window, else as `train.data.readers.pairs.make_pair`.
        """
        for kind, code in (("ct", "no_ct"), ("dwi", "no_dwi")):
            if not source.files(kind):
                raise CaseRefusedError(code, f"there are no {kind} slices of this patient in its split")
        check_png_window(source.files("ct"), self.options)
        numbers = list(_numbered(source, "ct"))
        values = read_stack(_numbered(source, "ct"), "ct", numbers)
        ct = stack_ct(hounsfield(values, self.options), spacing_of(source, self.options))
        dwi = _image(source, "dwi", ct, np.float32)
        assert dwi is not None, "its files were counted above"
        parts = PairParts(
            ct=ct,
            dwi=dwi,
            lesion=_image(source, "lesion", ct, np.uint8),
            brain=_image(source, "brain", ct, np.uint8),
            same_space=True,
        )
        return make_pair(source, parts, self.options)


def check_png_window(files: tuple[Path, ...], options: ReaderOptions) -> None:
    """Refuse CT from PNG (``ct_window``) unless the options state the window that its grey values show."""
    if options.ct_unit == "hu" and any(path.suffix == ".png" for path in files):
        reason = (
            "a PNG cannot hold Hounsfield units: export CT slices as .npy in HU, or say --ct-unit window and the "
            'window in HU (ct_unit = "window", window_hu)'
        )
        raise CaseRefusedError("ct_window", reason, {"png_slices": float(len(files))})


def _numbered(source: PairSource, kind: str) -> dict[int, Path]:
    return {parse_slice_name(path.stem)[1]: path for path in source.files(kind)}


def _image(source: PairSource, kind: str, ct: CtVolume, dtype: type[np.generic]) -> sitk.Image | None:
    slices = _numbered(source, kind)
    if not slices:
        return None
    values = read_stack(slices, kind, _numbered(source, "ct"))
    if dtype is np.uint8:
        values = (values > 0).astype(np.uint8)
    return stack_image(values.astype(dtype), ct, kind)
