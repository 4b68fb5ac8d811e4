"""APIS (Gomez et al. 2024; ISBI 2023): CT and ADC map, two readers' masks, one folder a case.

::

    <root>/                        or the folder above it
      train_000/                   any name
        ...ncct....nii.gz          a file with "ncct" in its name, upper or lower case
        ...adc....nii.gz           a file with "adc" in its name
        masks/                     one sub-folder with the masks of reader 1 and 2, on the grid of the ADC map
          ...r1....nii.gz
          ...r2....nii.gz

Tested on generated look-alikes of this tree only, not on the archive. There is no DWI: the target is the ADC map, as it
is or inverted (`ReaderOptions.adc`). CT and ADC count as registered only where they share one grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from train.data.readers.base import (
    AS_STORED,
    CaseRefusedError,
    PairSource,
    PairVolumes,
    ReaderOptions,
    case_name,
    checked_sources,
    tree_of,
)
from train.data.readers.image_files import read_ct_file, read_label_file, read_volume_file
from train.data.readers.pairs import PairParts, make_pair
from train.data.readers.volumes import centre_distance_mm, same_grid_as_image

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

__all__ = ["ApisReader"]

_EXPECTED: Final = tree_of(__doc__)
#: CT and ADC of one head whose centres lie further apart than this do not share a world.
_MAX_APART_MM: Final = 150.0


@dataclass(frozen=True, slots=True)
class ApisReader:
    """Reader of APIS."""

    options: ReaderOptions = AS_STORED
    name: str = "apis"
    description: str = "APIS: admission CT and ADC map, masks of two readers"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the folders with a file for CT and for ADC in their names; see `Reader.find`."""
        folders = [path for path in sorted([*root.iterdir(), *root.glob("*/*")]) if path.is_dir()]
        sources = [source for folder in folders if (source := self._source(folder)) is not None]
        # Other archives hold ADC maps too; what no case calls an ncct is not this one.
        named = any(source.files("ct") for source in sources)
        return checked_sources(root, sources if named else (), self.expected)

    def _source(self, folder: Path) -> PairSource | None:
        files = sorted(path for path in folder.iterdir() if path.is_file() and _is_nifti(path))
        ct, adc = _containing(files, "ncct"), _containing(files, "adc")
        if not ct and not adc:
            return None
        masks = sorted(
            path for place in folder.iterdir() if place.is_dir() for path in place.rglob("*") if _is_nifti(path)
        )
        paths = {"ct": ct, "adc": adc, "lesion": tuple(masks)}
        return PairSource(case_name(folder.name), self.name, None, self.name, paths)

    def load(self, source: PairSource) -> PairVolumes:
        """Read one case.

        Raises
        ------
        CaseRefusedError
            ``no_ct`` or ``no_dwi`` where the names do not tell one file for each, ``geometry`` where CT and ADC do not
            share a world, ``lesion_grid``, else as `train.data.readers.pairs.make_pair`.
        """
        ct_path, adc_path = _only(source, "ct", "no_ct", "ncct"), _only(source, "adc", "no_dwi", "adc")
        ct, adc = read_ct_file(ct_path, self.options), read_volume_file(adc_path)
        _check_world(ct, adc)
        lesion, notes = self._lesion(source, adc)
        parts = PairParts(ct=ct, dwi=adc, lesion=lesion, target_kind="adc", notes=notes)
        return make_pair(source, parts, self.options)

    def _lesion(self, source: PairSource, adc: sitk.Image) -> tuple[sitk.Image | None, tuple[str, ...]]:
        """One mask out of the readers', all on the grid of the ADC map."""
        import SimpleITK as sitk

        files = source.files("lesion")
        if not files:
            return None, ()
        chosen = files[:1] if self.options.apis_mask == "first" else files
        masks = []
        for path in files:
            mask, apart_mm = same_grid_as_image(read_label_file(path), adc)
            if mask is None:
                figures = {"from_adc_mm": apart_mm} if np.isfinite(apart_mm) else {}
                reason = f"{path.name} does not lie on the grid of the ADC map; resample it there"
                raise CaseRefusedError("lesion_grid", reason, figures)
            masks.append(sitk.GetArrayFromImage(mask) > 0)
        combine = np.logical_and.reduce if self.options.apis_mask == "intersection" else np.logical_or.reduce
        image = sitk.GetImageFromArray(combine(masks[: len(chosen)]).astype(np.uint8))
        image.CopyInformation(adc)
        return image, _agreement(masks, self.options.apis_mask)


def _agreement(masks: list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]], kind: str) -> tuple[str, ...]:
    if len(masks) < 2:
        return ("one reader's mask",)
    marked = np.count_nonzero(masks[0]) + np.count_nonzero(masks[1])
    dice = 2 * np.count_nonzero(masks[0] & masks[1]) / marked if marked else 1.0
    return (f"lesion of {len(masks)} readers: {kind}; their Dice is {dice:.2f}",)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _containing(files: Iterable[Path], word: str) -> tuple[Path, ...]:
    return tuple(path for path in files if word in path.name.lower())


def _only(source: PairSource, part: str, code: str, word: str) -> Path:
    files = source.files(part)
    if len(files) != 1:
        reason = f'{len(files)} files have "{word}" in their names where one is needed; move the others away'
        raise CaseRefusedError(code, reason, {"files": float(len(files))})
    return files[0]


def _check_world(ct: CtVolume, adc: sitk.Image) -> None:
    apart_mm = centre_distance_mm(ct, adc)
    if apart_mm > _MAX_APART_MM:
        reason = f"CT and ADC lie {apart_mm:.0f} mm apart: their affines do not share a world; mend the headers"
        raise CaseRefusedError("geometry", reason, {"centres_apart_mm": apart_mm})
