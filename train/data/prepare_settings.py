"""What a user may set for ``train prepare``, and the names and digests that follow from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.readers.base import PairSource, ReaderOptions, case_name
from train.data.registration import TransformKind

#: Raised whenever the same inputs and settings would give other arrays.
PREPARE_VERSION: Final = 1
#: Layouts of public archives, whose own case names are pseudonyms.
PSEUDONYMOUS: Final = frozenset({"aisd", "isles24", "apis"})
GIVEN_MASK: Final = "given"
"""Value of ``brain_mask`` that takes the masks which the archive's layout names."""
_DIGITS: Final = 8
_CENTRE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Settings of a run.

    Attributes
    ----------
    contract : PreprocessingContract
        Grid, thickness and scale of the target.
    layout : str
        Name of a reader, or "auto".
    centre : str or None
        Name of the hospital; default what the archive says.
    brain_mask : str or None
        "given" for the masks that the layout names, or a file name pattern; default the mask that the node computes.
    transform : TransformKind
        Freedom of the registration.
    target : {"dwi", "adc"}
        Which kind of image is learnt; pairs of the other kind are refused.
    split : {"patient", "slice"}
        "slice" mimics the paper and leaks.
    keep_names : bool
        Name cases like their folders, where these are pseudonyms already.
    workers : int
        Processes.
    options : ReaderOptions
        What the readers have to know.
    """

    contract: PreprocessingContract = field(default_factory=PreprocessingContract)
    layout: str = "auto"
    centre: str | None = None
    brain_mask: str | None = None
    transform: TransformKind = TransformKind.RIGID
    target: Literal["dwi", "adc"] = "dwi"
    split: Literal["patient", "slice"] = "patient"
    keep_names: bool = False
    workers: int = 1
    options: ReaderOptions = field(default_factory=ReaderOptions)

    def __post_init__(self) -> None:
        """Refuse a centre that could not name a folder."""
        if self.centre is not None and not _CENTRE.fullmatch(self.centre):
            raise ValueError("a centre is named by letters, digits, '.', '_' and '-' only")

    def centre_of(self, source: PairSource) -> str:
        """Centre of a case."""
        return self.centre or source.centre

    def keeps_name_of(self, source: PairSource) -> bool:
        """Whether the archive's name of a case may be shown: it is a pseudonym already."""
        return self.keep_names or source.layout in PSEUDONYMOUS

    def name_of(self, source: PairSource) -> str:
        """Name of a case in the cache.

        Public archives keep their own pseudonyms. A folder of a hospital's export may be called after the patient, so
        others get ``<layout>-<n>``, n being eight digits of a hash of centre and folder: the same case has the same
        number in every run, whatever is added beside it. That is a pseudonym and no anonymity: who knows a folder's
        name can compute its number. A named centre goes before names that are kept.
        """
        if self.keeps_name_of(source):
            return case_name(f"{self.centre}-{source.patient}" if self.centre else source.patient)
        number = int(hashlib.sha256(f"{self.centre_of(source)}/{source.patient}".encode()).hexdigest(), 16)
        return f"{source.layout}-{number % 10**_DIGITS:0{_DIGITS}d}"

    def digest_of(self, source: PairSource, extra: tuple[Path, ...] = ()) -> str:
        """Digest of what decides the arrays of a case: settings, and names, sizes and times of its files."""
        contract = self.contract
        decides = {
            "version": PREPARE_VERSION,
            "contract": {name: getattr(contract, name) for name in contract.to_json()},
            "centre": self.centre_of(source),
            "transform": self.transform.value,
            "target": self.target,
            "brain_mask": self.brain_mask,
            "options": asdict(self.options),
            "official": source.split,
            "files": sorted(_stamps(source, extra)),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:24]


def _stamps(source: PairSource, extra: tuple[Path, ...]) -> Iterator[tuple[str, str, int, int]]:
    """(part, name, size, time of change) of every file of a case."""
    for part in source.paths:
        for path in source.files(part):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    stat = file.stat()
                    yield part, str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns
    for file in extra:
        stat = file.stat()
        yield "mask", file.name, stat.st_size, stat.st_mtime_ns


def given_masks(source: PairSource, root: Path, pattern: str | None) -> tuple[Path, ...]:
    """Brain mask files of a case: beside its files, else in the nearest folder above them up to the root.

    Parameters
    ----------
    source : PairSource
        The case.
    root : Path
        Of the archive; folders of several cases are not searched.
    pattern : str or None
        As for `pathlib.Path.glob`, such as ``*brain*.nii.gz``; `GIVEN_MASK` names no files.
    """
    first = next(iter(source.paths), None)
    path = source.path(first) if first is not None else None
    if pattern in (None, GIVEN_MASK) or path is None:
        return ()
    folder = path if path.is_dir() else path.parent
    while folder != root and root in folder.parents:
        if found := tuple(sorted(folder.glob(pattern))):
            return found
        folder = folder.parent
    return ()
