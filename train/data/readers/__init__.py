"""Readers of paired CT/DWI archives: each knows one layout, and all give the same `PairVolumes`.

=============== ===============================================================================================
module          what it holds
=============== ===============================================================================================
base            `PairSource`, `PairVolumes`, `ReaderOptions`, the two errors
dicom_pairs     a folder of DICOM per patient
aisd            AISD; `aisd_slices` matches its masks to CT slices
isles24, apis   ISLES'24, APIS
nifti_layout    a folder of NIfTI per patient;  csv_layout  a table of volumes
slices_folder   single slices by split and kind;  aligned_png  pix2pix's pairs;  slice_names  what both share
exports         a cache as pix2pix's pairs or SelfRDB's npy
split_files     `splits.json`, `centre.txt`
image_files     NIfTI, PNG and npy files;  nifti_whole  files that were cut off
volumes         images to `CtVolume`, and their grids;  pairs  the checks common to all
=============== ===============================================================================================

AISD, ISLES'24 and APIS were tested on generated look-alikes only. A case is used whole or refused with a code, a reason
and figures; nothing is repaired in silence: what was seen and put right is a note of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from train.data.readers.aisd import AisdReader
from train.data.readers.aligned_png import AlignedPngReader
from train.data.readers.apis import ApisReader
from train.data.readers.base import (
    AS_STORED,
    CaseRefusedError,
    LayoutError,
    PairSource,
    PairVolumes,
    Reader,
    ReaderOptions,
)
from train.data.readers.csv_layout import CsvReader
from train.data.readers.dicom_pairs import DicomReader
from train.data.readers.isles24 import Isles24Reader
from train.data.readers.nifti_layout import NiftiReader
from train.data.readers.slices_folder import SlicesFolderReader

__all__ = [
    "READERS",
    "CaseRefusedError",
    "LayoutError",
    "PairSource",
    "PairVolumes",
    "Reader",
    "ReaderOptions",
    "detect_layout",
    "expected_layouts",
    "reader_for",
]

_KINDS: Final[tuple[Callable[[ReaderOptions], Reader], ...]] = (
    DicomReader,
    NiftiReader,
    CsvReader,
    AisdReader,
    Isles24Reader,
    ApisReader,
    SlicesFolderReader,
    AlignedPngReader,
)
#: Every reader with default options, by name.
READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {reader.name: reader for reader in (k(AS_STORED) for k in _KINDS)}
)

#: A layout that says more than others: a table lists its files, and AISD's folders hold DICOM files too.
_GOES_FIRST: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"csv": frozenset({"dicom", "nifti"}), "aisd": frozenset({"dicom"})}
)


def reader_for(name: str, options: ReaderOptions = AS_STORED) -> Reader:
    """Give the reader of a layout.

    Raises
    ------
    LayoutError
        ``layout`` for an unknown name, with the known ones.
    """
    found = next((reader for kind in _KINDS if (reader := kind(options)).name == name), None)
    if found is None:
        raise LayoutError("layout", f"{name!r} is no layout; known are {', '.join(READERS)}")
    return found


def detect_layout(root: Path, options: ReaderOptions = AS_STORED) -> Reader:
    """Find the one layout that a root has.

    Raises
    ------
    LayoutError
        ``missing`` when the root is not there; ``layout`` when no layout fits, with all trees; ``ambiguous`` when
        several do; else the fault of the layout that fits but contradicts itself (``leak``, ``csv``, ...).
    """
    if not root.exists():
        raise LayoutError("missing", f"{root} does not exist")
    if root.is_file():
        return reader_for("csv", options)
    fitting: list[str] = []
    faults: list[LayoutError] = []
    for kind in _KINDS:
        reader = kind(options)
        try:
            reader.find(root)
        except LayoutError as error:
            if error.code == "layout":
                continue
            # A fault other than the tree means that the tree is there, and its lists are wrong.
            faults.append(error)
        fitting.append(reader.name)
    fitting = [name for name in fitting if not any(name in _GOES_FIRST.get(other, ()) for other in fitting)]
    if len(fitting) > 1:
        reason = f"{root} fits the layouts {', '.join(fitting)}; name the one that is meant"
        raise LayoutError("ambiguous", reason)
    if not fitting:
        raise LayoutError("layout", f"{root} has no layout that is known; expected is one of\n\n{expected_layouts()}")
    if faults:
        raise faults[0]
    return reader_for(fitting[0], options)


def expected_layouts() -> str:
    """All layouts with their trees, for help texts and errors."""
    return "\n\n".join(f"{reader.name}: {reader.description}\n{reader.expected}" for reader in READERS.values())
