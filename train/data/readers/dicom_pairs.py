"""DICOM files of one patient in one folder, at any depth and under any names.

::

    <root>/
      <patient>/
        ...                        CT and MR files; the series are found and chosen by their headers
        lesion.nii.gz              optional, on the grid of the chosen CT or DWI; all zero: known to have none
        brain.nii.gz               optional, on the grid of the chosen CT
        centre.txt                 optional
      splits.json                  optional, see `train.data.readers.split_files`

The CT is chosen and gated by the node's own rules, so that training sees what the node will see; the diffusion series
is the one with the highest b value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from train.data.readers.base import (
    AS_STORED,
    CaseRefusedError,
    LayoutError,
    PairSource,
    PairVolumes,
    ReaderOptions,
    case_name,
    checked_sources,
    tree_of,
)
from train.data.readers.image_files import read_label_file
from train.data.readers.nifti_layout import nifti_file
from train.data.readers.pairs import PairParts, make_pair
from train.data.readers.split_files import centre_of, read_split_table
from train.data.readers.volumes import hounsfield

if TYPE_CHECKING:
    from jmmda_model.imaging.volume import CtVolume
    from train.data.diffusion import DiffusionError, SeriesFacts

__all__ = ["DicomReader", "load_ct_series", "refused"]

_EXPECTED: Final = tree_of(__doc__)
#: Files of a folder that are looked at to see whether it holds DICOM at all.
_LOOKED_AT: Final = 200


@dataclass(frozen=True, slots=True)
class DicomReader:
    """Reader of ``<root>/<patient>/`` with DICOM series."""

    options: ReaderOptions = AS_STORED
    name: str = "dicom"
    description: str = "a folder of DICOM files per patient; CT and DWI series are found by their headers"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the folders that hold any DICOM file; see `Reader.find`."""
        folders = [path for path in sorted(root.iterdir()) if path.is_dir() and _holds_dicom(path)]
        if not folders and _holds_dicom(root):
            raise LayoutError(
                "layout", f"{root} holds DICOM files itself; give each patient a folder:\n{self.expected}"
            )
        table = read_split_table(root, [case_name(folder.name) for folder in folders]) if folders else None
        sources = []
        for folder in folders:
            assert table is not None, "it was read for these folders"
            patient = case_name(folder.name)
            labels = {part: path for part in ("lesion", "brain") if (path := nifti_file(folder, part)) is not None}
            centre = table.centres.get(patient) or centre_of(folder, root)
            paths = {"series": folder, **labels}
            sources.append(PairSource(patient, centre, table.splits.get(patient), self.name, paths))
        return checked_sources(root, sources, self.expected)

    def load(self, source: PairSource) -> PairVolumes:
        """Choose and read the series of one patient.

        Raises
        ------
        CaseRefusedError
            With the code and reason of `train.data.diffusion`, else as `train.data.readers.pairs.make_pair`.
        """
        from train.data.diffusion import DiffusionError, find_series, judge_pair, read_diffusion

        folder, lesion, brain = (source.path(part) for part in ("series", "lesion", "brain"))
        assert folder is not None, "find names the folder"
        try:
            choice = judge_pair(find_series(folder), target=self.options.target)
            ct = load_ct_series(choice.ct, self.options)
            diffusion = read_diffusion(choice.dwi, b_value=self.options.b_value, b0_series=choice.b0)
        except DiffusionError as error:
            raise refused(error) from error
        parts = PairParts(
            ct=ct,
            dwi=diffusion.dwi,
            b0=diffusion.b0,
            lesion=None if lesion is None else read_label_file(lesion),
            brain=None if brain is None else read_label_file(brain),
            # One frame of reference does not make one space: the head moves between two scanners, always.
            same_space=False,
            target_kind=diffusion.target_kind,
            b_value=diffusion.b_value,
            notes=(
                *diffusion.notes,
                *(f"left out: {item.series_instance_uid}: {item.reason}" for item in choice.left_out),
            ),
        )
        return make_pair(source, parts, self.options)


def load_ct_series(series: SeriesFacts, options: ReaderOptions) -> CtVolume:
    """Read a CT series as the node reads it, except that a slab is long enough, and bring it to HU.

    Raises
    ------
    DiffusionError
        As `train.data.diffusion.read_ct`.
    CaseRefusedError
        As `train.data.readers.volumes.hounsfield`.
    """
    from dicom_node.dicom.rules import GeometrySettings
    from train.data.diffusion import read_ct

    rules = GeometrySettings(min_slices=2, min_coverage_mm=0)
    ct = read_ct(series, unit=options.ct_unit, thresholds=rules)
    return replace(ct, hu=hounsfield(ct.hu, options))


def refused(error: DiffusionError) -> CaseRefusedError:
    """Say what the series room said, in the class of this one."""
    return CaseRefusedError(error.code, error.reason, error.figures)


def _holds_dicom(folder: Path) -> bool:
    return any(_is_dicom(path) for path in islice(_files(folder), _LOOKED_AT))


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
