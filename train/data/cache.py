"""The cache that training reads: preprocessed cases as memory-mapped arrays on the network grid, one folder a case.

Phantoms and prepared patients share this format. All preprocessing goes through `jmmda_model.imaging`, the functions
that the node itself calls. A case is written beside its final name, flushed and renamed when complete, so whatever
interrupts a run (a kill, a full disk) leaves complete cases only, and the cache is simply continued.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.errors import ImagingError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

#: Version of the folder's layout; a cache of another one is made again.
LAYOUT = 2
INDEX_NAME = "cache.json"
#: Name of the source of phantoms, and of the file that marks the folder of a phantom patient in an archive: whatever
#: way it takes into a cache, a bundle trained on it says so.
PHANTOM = "phantom"
PHANTOM_MARK = "phantom.json"
#: HU are kept as int16 in steps of 1/16 HU: finer than any CT, and +-2047 HU fit.
HU_STEP = 1.0 / 16.0
_HU_RANGE = (-1024.0, 2047.0)
#: Targets in [-1, 1] are kept as int16 in steps of 1/32767.
TARGET_STEP = 1.0 / 32767.0

_REQUIRED = ("hu", "target", "brain")
_OPTIONAL = ("lesion", "clean")
#: Open files that are asked for when many cases are mapped.
_MOST_FILES = 65536
_PATIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CacheError(ValueError):
    """A cache or one of its cases cannot be used.

    Parameters
    ----------
    code
        ``missing``, ``layout``, ``contract``, ``case`` or ``leak``.
    reason
        One sentence that says what to do.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What is known of one case beside its images.

    Attributes
    ----------
    patient : str
        Name of the case and its folder; never an identifier of a DICOM header.
    centre : str
        Hospital or simulated centre.
    split : str
        "train", "validation" or "test".
    source : str
        "phantom", or the layout the case was read from.
    brain_ml : float
        Volume of the brain mask of the CT.
    lesion_ml : float or None
        Volume of the lesion; 0 when it is known that there is none, None when no mask exists.
    slice_offsets_mm : tuple of float
        (S,) positions of the slices along their normal.
    symmetry : (float, float)
        Mid-sagittal line on the grid, see `jmmda_model.imaging.symmetry`.
    target_kind : str
        "dwi" or "adc".
    affine : 4 x 4 or None
        Voxel (column, row, slice) of the grid to LPS millimetres; None for phantoms.
    registration : Mapping[str, float]
        Figures of the registration; empty when there was none.
    seed, lesion_kind, hu_drop, onset_h, mask_dice
        Of phantoms only: seed, kind of lesion, loss of HU, hours from onset, Dice of the CT mask against the truth.
    """

    patient: str
    centre: str
    split: Split
    source: str
    brain_ml: float
    lesion_ml: float | None
    slice_offsets_mm: tuple[float, ...]
    symmetry: tuple[float, float]
    target_kind: str = "dwi"
    affine: tuple[tuple[float, ...], ...] | None = None
    registration: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    lesion_kind: str | None = None
    hu_drop: float | None = None
    onset_h: float | None = None
    mask_dice: float | None = None

    def __post_init__(self) -> None:
        if not _PATIENT.fullmatch(self.patient):
            raise CacheError("case", f"{self.patient!r} is no name for a case: letters, digits, '.', '_' and '-' only")
        if self.split not in SPLITS:
            raise CacheError("case", f"{self.patient}: split must be one of {', '.join(SPLITS)}, not {self.split!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as kept in ``case.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseFacts:
        """Read `to_json`'s form back.

        Raises
        ------
        CacheError
            ``case`` when a key is missing or unknown.
        """
        if set(values) != (names := {item.name for item in fields(cls)}):
            raise CacheError("case", f"case.json has missing or unknown keys: {sorted(names ^ set(values))}")
        affine = values["affine"]
        first, second = values["symmetry"]
        return cls(
            **{
                **values,
                "slice_offsets_mm": tuple(values["slice_offsets_mm"]),
                "symmetry": (first, second),
                "affine": None if affine is None else tuple(tuple(row) for row in affine),
            }
        )


@dataclass(frozen=True, slots=True)
class CachedCase:
    """One case on the network grid; arrays are memory-mapped and read-only.

    Attributes
    ----------
    facts : CaseFacts
        What is known of it.
    hu : ndarray
        (S, H, W) int16, in steps of `HU_STEP`.
    target : ndarray
        (S, H, W) int16, in steps of `TARGET_STEP`: normalised DWI.
    brain : ndarray
        (S, H, W) uint8: brain mask of the CT as the node computes it.
    lesion : ndarray or None
        (S, H, W) uint8; None when no mask exists.
    clean : ndarray or None
        Like ``target`` without noise, bias, ghost and misregistration; phantoms only.
    """

    facts: CaseFacts
    hu: NDArray[np.int16]
    target: NDArray[np.int16]
    brain: NDArray[np.uint8]
    lesion: NDArray[np.uint8] | None = None
    clean: NDArray[np.int16] | None = None

    @property
    def has_lesion_label(self) -> bool:
        """Whether it is known where the lesion is, or that there is none."""
        return self.lesion is not None

    @property
    def has_clean(self) -> bool:
        """Whether there is a target without noise and misregistration."""
        return self.clean is not None

    def hu_slices(self, which: Any = slice(None)) -> NDArray[np.float32]:  # noqa: ANN401  (any index of the first axis)
        """HU as float32, (S, H, W)."""
        return np.asarray(self.hu[which], np.float32) * np.float32(HU_STEP)

    def target_slices(self, which: Any = slice(None), *, clean: bool = False) -> NDArray[np.float32]:  # noqa: ANN401
        """Target in [-1, 1] as float32, (S, H, W).

        Raises
        ------
        CacheError
            ``case`` when the clean target is asked for and there is none.
        """
        if not clean:
            return np.asarray(self.target[which], np.float32) * np.float32(TARGET_STEP)
        if self.clean is None:
            raise CacheError("case", f"{self.facts.patient} has no clean target: only phantoms have one")
        return np.asarray(self.clean[which], np.float32) * np.float32(TARGET_STEP)

    def lesion_slices(self, which: Any = slice(None)) -> NDArray[np.bool_]:  # noqa: ANN401
        """Lesion as bool, (S, H, W); all False when no mask exists, see `has_lesion_label`."""
        if self.lesion is None:
            return np.zeros(np.asarray(self.brain[which]).shape, np.bool_)
        return np.asarray(self.lesion[which]) > 0


def encode_hu(hu: NDArray[Any]) -> NDArray[np.int16]:
    """HU to the cache's int16 steps, clipped to what they hold."""
    return np.asarray(np.rint(np.clip(hu, *_HU_RANGE) / HU_STEP), np.int16)


def encode_target(target: NDArray[Any]) -> NDArray[np.int16]:
    """Target in [-1, 1] to the cache's int16 steps."""
    return np.asarray(np.rint(np.clip(target, -1.0, 1.0) / TARGET_STEP), np.int16)


def write_case(folder: Path, facts: CaseFacts, arrays: Mapping[str, NDArray[Any]]) -> CachedCase:
    """Write a case, whole or not at all, and open it.

    Parameters
    ----------
    folder : Path
        Its folder, named like the patient; replaced when it exists.
    facts : CaseFacts
        Its facts.
    arrays : Mapping[str, ndarray]
        ``hu``, ``target``, ``brain``, and where known ``lesion`` and ``clean``, as `CachedCase` holds them.

    Raises
    ------
    CacheError
        ``case`` when arrays are missing, unknown, or of different shapes.
    OSError
        When it cannot be written; nothing is left behind.
    """
    unknown = set(arrays) - {*_REQUIRED, *_OPTIONAL}
    if unknown or not set(_REQUIRED) <= set(arrays):
        raise CacheError("case", f"{facts.patient}: a case holds {_REQUIRED} and may hold {_OPTIONAL}")
    if len({array.shape for array in arrays.values()}) != 1:
        raise CacheError("case", f"{facts.patient}: the arrays of a case have one shape")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            with (part / f"{name}.npy").open("wb") as stream:
                np.save(stream, array)
                stream.flush()
                os.fsync(stream.fileno())
        _write_text(part / "case.json", json.dumps(facts.to_json(), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return load_case(folder)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def load_case(folder: Path) -> CachedCase:
    """Map one case into memory.

    Raises
    ------
    FileNotFoundError
        When the folder is not a complete case.
    CacheError
        ``case`` when its facts are of another version.
    """
    facts = CaseFacts.from_json(json.loads((folder / "case.json").read_text(encoding="utf-8")))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _REQUIRED}
    for name in _OPTIONAL:
        if (folder / f"{name}.npy").exists():
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return CachedCase(facts, **arrays)


def allow_many_cases() -> None:
    """Raise this process's limit of open files as far as it may go: each memory-mapped array of a case holds one.

    The usual soft limit of 1024 is reached with two hundred cases; the hard limit is left to the administrator.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass(frozen=True, slots=True)
class CacheIndex:
    """What ``cache.json`` says of a cache: the contract its arrays were made with, their source, and notes."""

    contract: PreprocessingContract
    source: str
    notes: Mapping[str, Any]


def write_index(cache: Path, contract: PreprocessingContract, source: str, **notes: object) -> None:
    """Write ``cache.json``, atomically; ``notes`` are JSON values."""
    cache.mkdir(parents=True, exist_ok=True)
    content = {"layout": LAYOUT, "source": source, "contract": contract.to_json(), "notes": notes}
    _write_text(cache / INDEX_NAME, json.dumps(content, indent=1))


def read_index(cache: Path) -> CacheIndex:
    """Read ``cache.json``.

    Raises
    ------
    CacheError
        ``missing`` when the folder is no cache, ``layout`` or ``contract`` when it is of another version.
    """
    try:
        content = json.loads((cache / INDEX_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError("missing", f"{cache} is no cache: it has no {INDEX_NAME}; make one with prepare") from error
    if content.get("layout") != LAYOUT:
        raise CacheError("layout", f"{cache} has layout {content.get('layout')!r}, not {LAYOUT}: make it again")
    try:
        contract = PreprocessingContract.from_json(content["contract"])
    except ImagingError as error:
        raise CacheError("contract", f"{cache}: {error.reason}: make it again") from error
    return CacheIndex(contract, str(content["source"]), content["notes"])


def load_split(cache: Path, split: Split, centres: Collection[str] | None = None) -> tuple[CachedCase, ...]:
    """All cases of a split, in the order of their names.

    Parameters
    ----------
    cache : Path
        Folder of the cache.
    split : str
        Which split.
    centres : collection of str, optional
        Only these centres.
    """
    allow_many_cases()
    found = (load_case(file.parent) for file in sorted(cache.glob("[!.]*/case.json")))
    return tuple(
        case for case in found if case.facts.split == split and (centres is None or case.facts.centre in centres)
    )
