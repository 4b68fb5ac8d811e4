"""Side-by-side PNG in the manner of pix2pix: CT on the left half, DWI on the right.

::

    <root>/
      geometry.json                     {"spacing_mm": [5.0, 0.9, 0.9]}: between slices, rows, columns
      train/<patient>_<slice>.png       grey, two halves of one width; 8 or 16 bits
      val/<patient>_<slice>.png
      test/<patient>_<slice>.png

The CT half shows a display window, which the options have to state. `train.data.readers.exports` writes this layout.
There are no masks in it: the lesion is unknown, and a CT cut to a brain window rarely gives a brain mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from train.data.readers.slices_folder import check_png_window
from train.data.readers.split_files import centre_of, no_leak
from train.data.readers.volumes import hounsfield

__all__ = ["AlignedPngReader"]

_EXPECTED: Final = tree_of(__doc__)


@dataclass(frozen=True, slots=True)
class AlignedPngReader:
    """Reader of pix2pix's aligned pairs."""

    options: ReaderOptions = AS_STORED
    name: str = "aligned"
    description: str = "pix2pix pairs: train, val, test / <patient>_<slice>.png, CT left, DWI right"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the patients of all splits.

        Raises
        ------
        LayoutError
            ``layout``, ``duplicate``, ``geometry`` without spacing, ``leak`` for a patient in two splits.
        """
        folders = split_folders(root)
        if not any(folder.glob("*.png") for folder in folders):
            raise LayoutError("layout", f"there is no train, val or test in {root}; expected\n{self.expected}")
        sources = [source for folder, split in folders.items() for source in self._sources(root, folder, split)]
        for source in sources:
            read_spacing_mm(root, self.options, source.patient)
        no_leak((source.patient, source.split) for source in sources if source.split is not None)
        return checked_sources(root, sources, self.expected)

    def _sources(self, root: Path, folder: Path, split: Split) -> Iterator[PairSource]:
        for patient, slices in slices_by_patient(folder).items():
            paths: dict[str, Path | tuple[Path, ...]] = {
                "pair": tuple(slices.values()),
                "geometry": root / GEOMETRY_FILE,
            }
            yield PairSource(patient, centre_of(folder, root), split, self.name, paths)

    def load(self, source: PairSource) -> PairVolumes:
        """Stack the slices of one patient and part their halves.

        Raises
        ------
        CaseRefusedError
            ``ct_window`` without a stated window, ``geometry`` for missing or odd slices, else as
            `train.data.readers.pairs.make_pair`.
        """
        check_png_window(source.files("pair"), self.options)
        slices = {parse_slice_name(path.stem)[1]: path for path in source.files("pair")}
        both = read_stack(slices, "pair", list(slices))
        width = both.shape[2]
        if width % 2:
            raise CaseRefusedError("geometry", "a picture of odd width has no two halves", {"columns": float(width)})
        ct = stack_ct(hounsfield(both[:, :, : width // 2], self.options), spacing_of(source, self.options))
        dwi = stack_image(both[:, :, width // 2 :].astype(np.float32), ct, "dwi")
        return make_pair(source, PairParts(ct=ct, dwi=dwi, same_space=True), self.options)
