"""Write a cache in the forms that the programs of other methods read: pix2pix's aligned PNG, SelfRDB's npy.

Both write beside the final name and rename, so an export is whole or not there, and both refuse to overwrite.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from train.data.cache import SPLITS, CachedCase, Split, load_split, read_index
from train.data.readers.base import LayoutError
from train.data.readers.image_files import write_png
from train.data.readers.slice_names import GEOMETRY_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["export_aligned", "export_selfrdb"]

#: How other programs call the splits.
_FOLDERS: Final[Mapping[Split, str]] = {"train": "train", "validation": "val", "test": "test"}
#: The window of the paper's CT images as we reconstruct it.
BRAIN_WINDOW_HU: Final = (0.0, 80.0)


def export_aligned(
    cache: Path,
    out: Path,
    *,
    window_hu: tuple[float, float] = BRAIN_WINDOW_HU,
    centres: Collection[str] | None = None,
) -> int:
    """Write ``<out>/{train,val,test}/<patient>_<slice>.png``, CT left and DWI right, 8 bits, every slice.

    Parameters
    ----------
    cache : Path
        A cache of `train prepare` or of phantoms.
    out : Path
        New folder. It also gets ``geometry.json``, so that `AlignedPngReader` reads it back.
    window_hu : (float, float)
        HU shown as 0 and 255.
    centres : collection of str, optional
        Only these centres.

    Returns
    -------
    int
        Number of pictures.

    Raises
    ------
    LayoutError
        ``duplicate`` when `out` exists, ``missing`` when no case was there, ``option`` for an empty window.
    """
    if not window_hu[0] < window_hu[1]:
        raise LayoutError("option", f"window_hu must be (low, high) with low < high, not {window_hu}")
    spacing_px = read_index(cache).contract.grid_spacing_mm

    def write(part: Path) -> int:
        spacings: dict[str, list[float]] = {}
        count = 0
        for split, case in _cases(cache, centres):
            folder = part / _FOLDERS[split]
            folder.mkdir(exist_ok=True)
            pictures = np.concatenate(
                [_grey(case.hu_slices(), window_hu), _grey(case.target_slices(), (-1, 1))], axis=2
            )
            for index, picture in enumerate(pictures):
                write_png(folder / f"{case.facts.patient}_{index:03d}.png", picture)
            spacings[case.facts.patient] = [_slice_spacing_mm(case), spacing_px, spacing_px]
            count += len(pictures)
        if count:
            usual = float(np.median([spacing[0] for spacing in spacings.values()]))
            geometry = {"spacing_mm": [usual, spacing_px, spacing_px], "window_hu": window_hu, "patients": spacings}
            (part / GEOMETRY_FILE).write_text(json.dumps(geometry, indent=1), encoding="utf-8")
        return count

    return _whole(out, write)


def export_selfrdb(cache: Path, out: Path, *, centres: Collection[str] | None = None) -> int:
    """Write ``<out>/{ct,dwi}/{train,val,test}/slice_<n>.npy`` and ``subjects.json``, as SelfRDB's `NumpyDataset` reads.

    Images are float32 in [0, 1]: the brain window of the CT, and the normalised DWI. ``subjects.json`` lists, by split,
    the patient of each slice, since their numbers run on over patients.

    Returns
    -------
    int
        Number of slices of each kind.

    Raises
    ------
    LayoutError
        As in `export_aligned`.
    """

    def write(part: Path) -> int:
        subjects: dict[str, list[str]] = {}
        low, high = BRAIN_WINDOW_HU
        for split, case in _cases(cache, centres):
            names = subjects.setdefault(_FOLDERS[split], [])
            ct = np.clip((case.hu_slices() - low) / (high - low), 0, 1).astype(np.float32)
            dwi = np.clip((case.target_slices() + 1) / 2, 0, 1).astype(np.float32)
            for kind, images in (("ct", ct), ("dwi", dwi)):
                folder = part / kind / _FOLDERS[split]
                folder.mkdir(parents=True, exist_ok=True)
                for index, image in enumerate(images, start=len(names)):
                    np.save(folder / f"slice_{index}.npy", image)
            names.extend([case.facts.patient] * len(ct))
        (part / "subjects.json").write_text(json.dumps(subjects), encoding="utf-8")
        return sum(len(names) for names in subjects.values())

    return _whole(out, write)


def _cases(cache: Path, centres: Collection[str] | None) -> Iterator[tuple[Split, CachedCase]]:
    return ((split, case) for split in SPLITS for case in load_split(cache, split, centres))


def _grey(values: npt.NDArray[np.float32], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = window
    return np.asarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255), dtype=np.uint8)


def _slice_spacing_mm(case: CachedCase) -> float:
    steps = np.diff(case.facts.slice_offsets_mm)
    return float(np.median(steps)) if steps.size else 1.0


def _whole(out: Path, write: Callable[[Path], int]) -> int:
    """Fill a folder beside its place and move it there when it is complete."""
    if out.exists():
        raise LayoutError("duplicate", f"{out} exists; name a new folder")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        count = write(part)
        if not count:
            raise LayoutError("missing", "the cache has no case of the wanted centres; nothing was exported")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count
