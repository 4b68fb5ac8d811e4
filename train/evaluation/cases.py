"""The test volumes of a recipe, and the training volumes on which controls and detectors are fitted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import CachedCase, CacheError, Split, load_split, read_index
from train.data.phantom_cache import build_cache, load_phantom_split
from train.data.prepared import open_prepared
from train.recipe import DataRecipe

#: What a network and a prepared folder must agree on.
GRID_KEYS = ("grid_px", "grid_spacing_mm", "target_scale", "nominal_thickness_mm")
#: Training phantoms a centre that are looked at, and made where they are missing.
FIT_VOLUMES_A_CENTRE = 60


class EvaluationError(ValueError):
    """An evaluation cannot be made.

    Parameters
    ----------
    code : str
        ``no_recipe``, ``no_folder``, ``no_cases``, ``no_training`` or ``contract``.
    reason : str
        One sentence that says what to do.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EvaluationCases:
    """Cases of one evaluation.

    Attributes
    ----------
    test, training : tuple of CachedCase
        What is scored, and what controls are fitted on.
    trained_centres : tuple of str
        Centres that the recipe trains on.
    """

    test: tuple[CachedCase, ...]
    training: tuple[CachedCase, ...]
    trained_centres: tuple[str, ...]

    @property
    def source(self) -> str:
        """``phantom``, or the layouts the test cases were read from."""
        return ", ".join(sorted({case.facts.source for case in self.test}))


def open_cases(
    data: DataRecipe,
    contract: PreprocessingContract,
    root: Path,
    *,
    volumes: int | None = None,
    centres: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationCases:
    """Open the volumes of a recipe; phantoms that are missing are made.

    Parameters
    ----------
    data : DataRecipe
        Names the volumes.
    contract : PreprocessingContract
        Of the network: its grid and target scale must be those of a prepared folder.
    root : Path
        Where phantom caches are; for prepared data the prepared folder itself.
    volumes : int, optional
        At most this many test volumes a centre.
    centres : collection of str
        Only these test centres; empty for all of the recipe.
    progress : callable, optional
        Called with (done, total) while phantoms are made.

    Raises
    ------
    EvaluationError
        ``no_cases`` without a test volume, ``no_training`` without a training volume, ``contract`` when a prepared
        folder was made with another grid or target scale.
    train.data.cache.CacheError
        When the prepared folder is no cache.
    """
    if data.source == "phantom":
        found = _phantoms(data, contract, root, volumes, centres, progress)
    else:
        found = _prepared(data, contract, root, volumes, centres)
    if not found.test:
        raise EvaluationError("no_cases", "the recipe names no test volume of these centres, or none was usable")
    if not found.training:
        raise EvaluationError("no_training", "controls are fitted on training volumes, and there is none")
    return found


def _phantoms(
    data: DataRecipe,
    contract: PreprocessingContract,
    root: Path,
    volumes: int | None,
    centres: Collection[str],
    progress: Callable[[int, int], None] | None,
) -> EvaluationCases:
    wanted = dataclasses.replace(
        data,
        test={name: min(n, volumes or n) for name, n in data.test.items() if not centres or name in centres},
        train={name: min(n, FIT_VOLUMES_A_CENTRE) for name, n in data.train.items()},
    )
    cache = build_cache(root, wanted, contract, splits=("train", "test"), progress=progress)
    test, training = (load_phantom_split(cache, wanted, split) for split in ("test", "train"))
    return EvaluationCases(test, training, tuple(sorted(name for name, n in data.train.items() if n)))


def _prepared(
    data: DataRecipe, contract: PreprocessingContract, folder: Path, volumes: int | None, centres: Collection[str]
) -> EvaluationCases:
    made = read_index(folder).contract
    differ = [key for key in GRID_KEYS if getattr(made, key) != getattr(contract, key)]
    if differ:
        raise EvaluationError("contract", f"{folder} was prepared with other {', '.join(differ)} than the network has")
    chosen = tuple(centres) or data.centres_test or None
    opened = open_prepared(folder)
    try:
        test = _first_of_each_centre(opened.cases("test", chosen), volumes)
        training = opened.cases("train", data.centres_train or None)
    except CacheError as error:
        raise EvaluationError("no_cases", error.reason) from error
    return EvaluationCases(test, training, tuple(sorted({case.facts.centre for case in training})))


def _first_of_each_centre(cases: Sequence[CachedCase], most: int | None) -> tuple[CachedCase, ...]:
    taken: Counter[str] = Counter()
    kept = []
    for case in cases:
        if most is None or taken[case.facts.centre] < most:
            kept.append(case)
            taken[case.facts.centre] += 1
    return tuple(kept)


def training_cases(
    data: DataRecipe, contract: PreprocessingContract, root: Path, split: Split = "train"
) -> tuple[CachedCase, ...]:
    """Volumes of one split, for the segmenter: 60 phantoms a centre at most, made where missing, or prepared ones."""
    if data.source != "phantom":
        return load_split(root, split, data.centres_train or None)
    counts = {name: min(n, FIT_VOLUMES_A_CENTRE) for name, n in getattr(data, split).items()}
    wanted = dataclasses.replace(data, **{split: counts})  # type: ignore[arg-type]
    cache = build_cache(root, wanted, contract, splits=(split,))
    return load_phantom_split(cache, wanted, split)
