"""A cache that ``train prepare`` wrote, opened for training and evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import SPLITS, CachedCase, CacheError, CacheIndex, Split, load_case, load_split, read_index
from train.data.splits import SliceShare, leaking_patients

SLICES_NAME: Final = "slices.json"
#: What of the contract is baked into the arrays; windows, neighbours and mask channels are made from them later.
DECIDES: Final = ("version", "grid_px", "grid_spacing_mm", "nominal_thickness_mm", "max_thickness_mm", "target_scale")


@dataclass(frozen=True, slots=True)
class PreparedCache:
    """A prepared cache.

    Attributes
    ----------
    folder : Path
        Where it is.
    index : CacheIndex
        Its contract, source and notes.
    """

    folder: Path
    index: CacheIndex

    @property
    def leaky(self) -> bool:
        """Whether slices and not patients were split: say so beside every score, see `splits.LEAKAGE_WARNING`."""
        return self.index.notes.get("split") == "slice"

    def cases(self, split: Split, centres: Collection[str] | None = None) -> tuple[CachedCase, ...]:
        """Cases of a split in the order of their names.

        Of a cache split on slices: every case, with brain in its slices of the split only. Validation is then the test
        slices, since that protocol knows no third part.

        Raises
        ------
        CacheError
            ``missing`` when the list of slices is not there; ``case`` when centres are named that the cache lacks.
        """
        if centres is not None and (unknown := set(centres) - set(self.centres())):
            raise CacheError(
                "case", f"no case of {', '.join(sorted(unknown))}; the cache holds {', '.join(self.centres())}"
            )
        if not self.leaky:
            return load_split(self.folder, split, centres)
        shares = read_slices(self.folder)
        every = (case for name in SPLITS for case in load_split(self.folder, name, centres))
        parts = (_only_slices(case, split, shares.get(case.facts.patient)) for case in every)
        return tuple(sorted((case for case in parts if case is not None), key=lambda case: case.facts.patient))

    def centres(self) -> tuple[str, ...]:
        """All centres, sorted."""
        return tuple(sorted({case.facts.centre for case in _every(self.folder)}))


def open_prepared(folder: Path, contract: PreprocessingContract | None = None) -> PreparedCache:
    """Open a prepared cache.

    Parameters
    ----------
    folder : Path
        What ``train prepare --out`` named.
    contract : PreprocessingContract, optional
        Contract that the arrays have to fit.

    Raises
    ------
    CacheError
        ``missing``, ``layout`` or ``contract`` as `read_index`; ``contract`` too when the arrays were made for another
        grid or scale; ``leak`` when a patient is in two splits; ``missing`` when there is no case.
    """
    index = read_index(folder)
    if contract is not None and (differs := differing(index.contract, contract)):
        raise CacheError("contract", f"{folder} was prepared with other {', '.join(differs)}: prepare it again")
    members = [(case.facts.patient, case.facts.split) for case in _every(folder)]
    if not members:
        raise CacheError("missing", f"{folder} holds no case")
    if leaking := leaking_patients(members):
        raise CacheError("leak", f"{folder}: in more than one split: {', '.join(leaking)}")
    return PreparedCache(folder, index)


def differing(one: PreprocessingContract, other: PreprocessingContract) -> tuple[str, ...]:
    """Names of the settings that make arrays of the two contracts differ."""
    return tuple(name for name in DECIDES if getattr(one, name) != getattr(other, name))


def read_slices(folder: Path) -> dict[str, SliceShare]:
    """Read the split of slices of a leaky cache.

    Raises
    ------
    CacheError
        ``missing`` when it is not there.
    """
    try:
        content = json.loads((folder / SLICES_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError(
            "missing", f"{folder} is split on slices and has no {SLICES_NAME}: prepare it again"
        ) from error
    return {name: SliceShare(tuple(part["train"]), tuple(part["test"])) for name, part in content.items()}


def _every(folder: Path) -> tuple[CachedCase, ...]:
    return tuple(load_case(file.parent) for file in sorted(folder.glob("[!.]*/case.json")))


def _only_slices(case: CachedCase, split: Split, share: SliceShare | None) -> CachedCase | None:
    which = () if share is None else share.train if split == "train" else share.test
    if not which:
        return None
    # The other slices stay as neighbours for context; without brain they are neither trained on nor scored.
    away = np.ones(len(case.brain), dtype=np.bool_)
    away[list(which)] = False
    brain, lesion = np.array(case.brain), None if case.lesion is None else np.array(case.lesion)
    brain[away] = 0
    if lesion is not None:
        lesion[away] = 0
    facts = dataclasses.replace(case.facts, split=split)
    return CachedCase(facts, case.hu, case.target, brain, lesion, case.clean)
