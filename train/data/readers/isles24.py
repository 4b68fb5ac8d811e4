"""ISLES'24 (Riedel et al., arXiv 2408.11142; Zenodo), as its archive and its description name the files.

::

    <root>/                                   or the folder above it
      raw_data/<sub>/ses-01/<sub>_ses-01_ncct.nii.gz
      raw_data/<sub>/ses-02/<sub>_ses-02_{dwi,adc}.nii.gz
      derivatives/<sub>/ses-02/<sub>_ses-02_space-ncct_{dwi,adc,lesion-msk}.nii.gz

    <sub> is sub-stroke0001; the published description writes rawdata, sub-strokecase0001 and ses-0001, and both fit.
    The DWI registered to the CT (space-ncct) is preferred; without it the raw one is registered here.

Tested on generated look-alikes of this tree only, not on the archive. The images are defaced, and the DWI was made days
after treatment: each case carries that note.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
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
from train.data.readers.image_files import read_ct_file, read_diffusion_file, read_label_file
from train.data.readers.pairs import PairParts, make_pair

__all__ = ["NOTE_DAYS", "Isles24Reader"]

_EXPECTED: Final = tree_of(__doc__)
#: What every table made from these cases has to say.
NOTE_DAYS: Final = (
    "ISLES'24: the DWI was acquired 2 to 9 days after treatment and shows infarct that the admission CT cannot show; "
    "lesion fidelity is bounded"
)
_SUBJECT: Final = re.compile(r"sub-stroke(case)?\d+\Z")
_SUFFIXES: Final = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class Isles24Reader:
    """Reader of ISLES'24."""

    options: ReaderOptions = AS_STORED
    name: str = "isles24"
    description: str = "ISLES'24: admission CT, DWI 2 to 9 days later, lesion mask"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """List the subjects of raw data and derivatives; see `Reader.find`."""
        subjects: dict[str, list[Path]] = {}
        for pattern in ("raw*data/sub-stroke*", "derivatives/sub-stroke*"):
            for folder in sorted([*root.glob(pattern), *root.glob(f"*/{pattern}")]):
                if folder.is_dir() and _SUBJECT.match(folder.name):
                    subjects.setdefault(folder.name, []).append(folder)
        sources = (self._source(subject, folders) for subject, folders in subjects.items())
        return checked_sources(root, sources, self.expected)

    def _source(self, subject: str, folders: list[Path]) -> PairSource:
        raw = [folder for folder in folders if folder.parent.name != "derivatives"]
        derived = [folder for folder in folders if folder.parent.name == "derivatives"]
        found = {
            "ct": _one(raw, "1", "ncct"),
            "target_on_ct": _one(derived, "2", f"space-ncct_{self.options.target}"),
            "target": _one(raw, "2", self.options.target),
            # The exact ending: one subject has a stray mask without "space-ncct" on another grid.
            "lesion": _one(derived, "2", "space-ncct_lesion-msk"),
        }
        paths = {part: path for part, path in found.items() if path is not None}
        return PairSource(case_name(subject), self.name, None, self.name, paths, (NOTE_DAYS,))

    def load(self, source: PairSource) -> PairVolumes:
        """Read one subject.

        Raises
        ------
        CaseRefusedError
            ``no_ct`` or ``no_dwi`` for missing files, else as `train.data.readers.pairs.make_pair`.
        """
        ct, registered, raw = source.path("ct"), source.path("target_on_ct"), source.path("target")
        target = registered or raw
        if ct is None:
            raise CaseRefusedError("no_ct", "no file ends in _ncct.nii.gz in ses-01 of the raw data; download it again")
        if target is None:
            kind = self.options.target
            reason = f"no file ends in space-ncct_{kind}.nii.gz (derivatives) or _{kind}.nii.gz (raw data) in ses-02"
            raise CaseRefusedError("no_dwi", reason)
        diffusion = read_diffusion_file(target)
        lesion = source.path("lesion")
        parts = PairParts(
            ct=read_ct_file(ct, self.options),
            dwi=diffusion.dwi,
            b0=diffusion.b0,
            lesion=None if lesion is None else read_label_file(lesion),
            same_space=registered is not None,
            target_kind=self.options.target,
            b_value=diffusion.b_value,
            notes=diffusion.notes,
        )
        if registered is None:
            parts = replace(parts, notes=(*parts.notes, "no target in space-ncct: the raw one has to be registered"))
        return make_pair(source, parts, self.options)


def _one(folders: list[Path], session: str, ending: str) -> Path | None:
    """The file of a session (``ses-01``, ``ses-0001``) whose name is subject, session and exactly this ending.

    Both names of the session are known to be used in the file as well, so only the part between the first two
    underscores is free.
    """
    for folder in folders:
        for path in sorted(folder.glob(f"ses-0*{session}/*_{ending}.nii*")):
            stem = next((path.name.removesuffix(end) for end in _SUFFIXES if path.name.endswith(end)), "")
            parts = stem.split("_", 2)
            if len(parts) == 3 and parts[0] == folder.name and parts[2] == ending:
                return path
    return None
