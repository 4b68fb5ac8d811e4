"""One folder of NIfTI files a patient.

::

    <root>/
      <patient>/
        ct.nii.gz                  HU
        dwi.nii.gz                 highest b value; or adc.nii.gz; 4-D with dwi.bval beside it
        b0.nii.gz                  optional, on the grid of the DWI
        lesion.nii.gz              optional, on the grid of CT or DWI; all zero: known to have none
        brain.nii.gz               optional, on the grid of the CT
        centre.txt                 optional
      splits.json                  optional, see `train.data.readers.split_files`

Files may end in ``.nii`` as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
from train.data.readers.image_files import read_ct_file, read_diffusion_file, read_label_file, read_volume_file
from train.data.readers.pairs import PairParts, make_pair
from train.data.readers.split_files import centre_of, read_split_table

__all__ = ["NiftiReader", "load_nifti_pair", "nifti_file"]

_EXPECTED: Final = tree_of(__doc__)
_PARTS: Final = ("ct", "dwi", "adc", "b0", "lesion", "brain")


def nifti_file(folder: Path, name: str) -> Path | None:
    """``<name>.nii.gz`` or ``<name>.nii`` of a folder, if there."""
    return next((path for suffix in (".nii.gz", ".nii") if (path := folder / f"{name}{suffix}").is_file()), None)


def load_nifti_pair(source: PairSource, options: ReaderOptions) -> PairVolumes:
    """Read a case whose paths are "ct", "dwi" or "adc", and maybe "b0", "lesion" and "brain".

    Raises
    ------
    CaseRefusedError
        ``no_ct`` or ``no_dwi`` for a missing file, else as `train.data.readers.image_files` and
        `train.data.readers.pairs.make_pair`.
    """
    ct, dwi, adc = (source.path(part) for part in ("ct", "dwi", "adc"))
    target = (adc or dwi) if options.target == "adc" else (dwi or adc)
    if ct is None:
        raise CaseRefusedError("no_ct", "there is no CT file; add it or remove the case")
    if target is None:
        raise CaseRefusedError("no_dwi", "there is no DWI or ADC file; add it or remove the case")
    diffusion = read_diffusion_file(target)
    b0, lesion, brain = source.path("b0"), source.path("lesion"), source.path("brain")
    parts = PairParts(
        ct=read_ct_file(ct, options),
        dwi=diffusion.dwi,
        b0=diffusion.b0 if b0 is None else read_volume_file(b0),
        lesion=None if lesion is None else read_label_file(lesion),
        brain=None if brain is None else read_label_file(brain),
        target_kind="adc" if target == adc else "dwi",
        b_value=diffusion.b_value,
        notes=diffusion.notes,
    )
    return make_pair(source, parts, options)


@dataclass(frozen=True, slots=True)
class NiftiReader:
    """Reader of ``<root>/<patient>/{ct,dwi,brain,lesion}.nii.gz``."""

    options: ReaderOptions = AS_STORED
    name: str = "nifti"
    description: str = "a folder of NIfTI files per patient: ct, dwi, optional lesion and brain"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the folders that hold any NIfTI file of the layout; see `Reader.find`."""
        found = {}
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            paths = {part: path for part in _PARTS if (path := nifti_file(folder, part)) is not None}
            # A folder without ct and dwi is no case; one with only one of them is a case to be refused by name.
            if {"ct", "dwi", "adc"} & paths.keys():
                found[folder] = paths
        # Before its lists are read: a splits.json alone, or nothing but ADC maps, is not this layout.
        if not any({"ct", "dwi"} & paths.keys() for paths in found.values()):
            return checked_sources(root, (), self.expected)
        table = read_split_table(root, [case_name(folder.name) for folder in found])
        sources = (
            PairSource(
                patient=case_name(folder.name),
                centre=table.centres.get(case_name(folder.name)) or centre_of(folder, root),
                split=table.splits.get(case_name(folder.name)),
                layout=self.name,
                paths=paths,
            )
            for folder, paths in found.items()
        )
        return checked_sources(root, sources, self.expected)

    def load(self, source: PairSource) -> PairVolumes:
        """Read one patient; see `load_nifti_pair`."""
        return load_nifti_pair(source, self.options)
