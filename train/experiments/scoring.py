"""Score a trained network, a simple control or the measured DWI on one test set, slice by slice.

A damaged test set (`train.experiments.perturb`) changes what is predicted from, never what the prediction is compared
with: regions, slices and truth are those of the undamaged volumes, so that all scores of a test split are paired.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jmmda_model.imaging.contract import PreprocessingContract
from train.controls import TISSUE_HU, Control, ControlInput, fit_controls
from train.data.cache import CachedCase
from train.devices import choose_device
from train.evaluate import prepared_folder
from train.evaluation.cases import GRID_KEYS, EvaluationError, open_cases
from train.evaluation.lesions import fit_bright_level
from train.evaluation.methods import Predict
from train.evaluation.scoring import METRICS, REGIONS, CaseTruth, VolumeScore
from train.evaluation.summary import summarise, truths_of
from train.evaluation.superpixels import METRICS as AGREEMENTS
from train.evaluation.superpixels import (
    OTHER_SEGMENTS,
    SEGMENTS,
    CaseSuperpixels,
    Scatter,
    SuperpixelScore,
    summarise_superpixels,
)
from train.evaluation.targets import MEASURED
from train.experiments.perturb import seen_case, with_mask
from train.experiments.records import MaskSource, Scores, TestSet, Training
from train.experiments.statistics import cluster_of
from train.fit import read_run, run_contract
from train.metrics import to_unit, unit32
from train.pictures import shown_slice
from train.predict import NetworkPredictor
from train.recipe import DataRecipe, Recipe
from train.registry import build_translator
from train.state import averaged_weights

FloatArray = NDArray[np.float64]

#: A grid has so many superpixels only when each has about 80 pixels of the frame, of which the brain fills a third:
#: on coarser grids nearly all would be too small to count.
_FRAME_PX_A_SEGMENT = 80
#: Superpixels that are kept for scatter plots.
_SCATTER_POINTS = 2000
#: What of the data section decides neither volumes nor anything else that is scored.
_FREE_DATA_KEYS = ("validation", "workers", "balance", "lesion_share", "on_device")


@dataclass(frozen=True, slots=True)
class Place:
    """Which volumes are scored, and on which ones bright rule and controls are fitted; equal ones are opened once.

    Attributes
    ----------
    words : str
        All that decides the volumes, as text; the digest of its training half is in the key of a control.
    centres : tuple of str
        Tested.
    data, contract, root
        As `open_cases` takes them; the test volumes are those of ``centres`` only.
    """

    words: str
    centres: tuple[str, ...]
    data: DataRecipe = field(compare=False)
    contract: PreprocessingContract = field(compare=False)
    root: Path = field(compare=False)

    @classmethod
    def of(cls, recipe: Recipe, contract: PreprocessingContract, cache_root: Path, centres: Sequence[str]) -> Place:
        """Place of a recipe's volumes; prepared ones lie where the recipe says."""
        chosen = {name: count for name, count in recipe.data.test.items() if name in centres}
        data = dataclasses.replace(recipe.data, test=chosen)
        root = prepared_folder(recipe) or cache_root
        words = json.dumps([_decisive(data), _grid(contract), str(root.resolve())], sort_keys=True)
        return cls(words, tuple(centres), data, contract, root)


def _decisive(data: DataRecipe) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(data).items() if name not in _FREE_DATA_KEYS}


def _grid(contract: PreprocessingContract) -> list[Any]:
    return [getattr(contract, name) for name in GRID_KEYS]


def trained_centres(data: DataRecipe) -> tuple[str, ...]:
    """Centres that a recipe trains on; empty for all of a prepared folder."""
    return tuple(sorted(name for name, count in data.train.items() if count)) or data.centres_train


def control_key(name: str, recipe: Recipe) -> str:
    """Key of a control that was fitted on a recipe's training volumes, built like `Training.key`."""
    values = {key: value for key, value in _decisive(recipe.data).items() if not key.endswith("test")}
    digest = hashlib.sha256(json.dumps([values, _grid(run_contract(recipe))], sort_keys=True).encode()).hexdigest()
    return f"{name}-{'+'.join(trained_centres(recipe.data)) or 'all'}-{digest[:10]}"


class Bench:
    """Opened volumes of a place, and what is made of them once for many networks.

    Parameters
    ----------
    place : Place
        Phantoms that are missing are made.

    Raises
    ------
    EvaluationError
        As `open_cases`, and ``no_cases`` when one of the centres has no volume.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.spacing_mm = place.contract.grid_spacing_mm
        self.cases = open_cases(place.data, place.contract, place.root, centres=place.centres)
        if absent := set(place.centres) - {case.facts.centre for case in self.cases.test}:
            raise EvaluationError("no_cases", f"there is no test volume of {', '.join(sorted(absent))}")
        self._superpixels: dict[tuple[int, int], CaseSuperpixels] = {}

    @functools.cached_property
    def bright_level(self) -> float | None:
        """Level of the bright rule."""
        return fit_bright_level(self.cases.training)

    @functools.cached_property
    def controls(self) -> Mapping[str, Control]:
        """Simple controls."""
        return fit_controls(self.cases.training, self.place.contract)

    def superpixels(self, index: int, n_segments: int) -> CaseSuperpixels:
        """Superpixels of a test volume.

        Raises
        ------
        ImportError
            When scikit-image is not installed.
        """
        key = index, n_segments
        if key not in self._superpixels:
            self._superpixels[key] = CaseSuperpixels(self.cases.test[index], n_segments)
        return self._superpixels[key]


@functools.lru_cache(maxsize=1)
def open_bench(place: Place) -> Bench:
    """Bench of a place; the last one stays open, as one test set after the other is scored."""
    return Bench(place)


class GivenMask(NetworkPredictor):
    """A network that is given another mask than the CT's own.

    Only its mask channels change, and the output is still cut by the CT's own mask: the figures speak of what the
    network makes of its mask.

    Parameters
    ----------
    network, contract, device
        See `NetworkPredictor`.
    source : str
        See `TestSet.mask`.
    """

    def __init__(
        self, network: nn.Module, contract: PreprocessingContract, source: MaskSource, device: torch.device
    ) -> None:
        super().__init__(network, contract, description=f"mask {source}", device=device)
        self.source = source
        self._given: CachedCase | None = None

    def predict_case(self, case: CachedCase) -> NDArray[np.float32]:
        """(S, H, W) in [-1, 1], -1 outside the CT's own mask."""
        self._given = with_mask(case, self.source, self.contract.grid_spacing_mm)
        return super().predict_case(case)

    def inputs(
        self, case: CachedCase, rows: NDArray[np.intp], asymmetry: NDArray[np.float32] | None = None
    ) -> tuple[Tensor, Tensor]:
        """CT and mask channels of some slices of the case that is being predicted."""
        return super().inputs(case if self._given is None else self._given, rows, asymmetry)


def score_training(
    training: Training, test: TestSet, *, run: Path, cache_root: Path, examples: int = 3, device: str = "cpu"
) -> Scores:
    """Score the network of a run.

    Parameters
    ----------
    training : Training
        Its recipe names the test volumes of the centres of ``test``.
    test : TestSet
        Where.
    run : Path
        Run folder; the weights are those the run stands for, see `averaged_weights`.
    cache_root : Path
        Where phantom volumes are.
    examples : int
        Volumes of which a picture is kept.
    device : str
        See `choose_device`.

    Raises
    ------
    FileNotFoundError
        When the folder is not a run with a checkpoint.
    train.state.TrainingError
        When its checkpoint or the device cannot be used.
    EvaluationError
        As `Bench`.
    ValueError
        When the network's output is not finite, or a mask that is wanted is not known.
    """
    recipe = training.recipe
    contract = read_run(run)[1].contract
    network = build_translator(recipe)
    network.load_state_dict(averaged_weights(run))
    predictor = GivenMask(network, contract, test.mask, choose_device(device))
    place = Place.of(recipe, contract, cache_root, test.centres)
    return _scores(training.key, test, open_bench(place), predictor.predict_case, examples)


def score_control(name: str, recipe: Recipe, test: TestSet, cache_root: Path, *, examples: int = 3) -> Scores:
    """Score a simple control, or the measured DWI itself (``measured_dwi``).

    Parameters
    ----------
    name : str
        See `train.controls.fit_controls`.
    recipe : Recipe
        The control is fitted on its training volumes; it names the test volumes too.
    test : TestSet
        Where. A control that is given another mask takes HU and depth from it, and is cut by the CT's own like a
        network.
    cache_root : Path
        Where phantom volumes are.
    examples : int
        Volumes of which a picture is kept.

    Returns
    -------
    Scores
        Its key is `control_key`, since the same control may be fitted on several centres.

    Raises
    ------
    ValueError
        When there is no such control, or a mask that is wanted is not known.
    train.state.TrainingError, EvaluationError
        When the volumes cannot be used.
    """
    contract = run_contract(recipe)
    bench = open_bench(Place.of(recipe, contract, cache_root, test.centres))

    def predict(seen: CachedCase) -> NDArray[np.float32]:
        if name == MEASURED:
            return seen.target_slices()
        given = with_mask(seen, test.mask, bench.spacing_mm)
        image = bench.controls[name](ControlInput.of(given, contract))
        return np.where(np.asarray(seen.brain) > 0, image, np.float32(-1.0))

    if name != MEASURED and name not in bench.controls:
        raise ValueError(f"there is no control {name}: choose of {', '.join((MEASURED, *bench.controls))}")
    return _scores(control_key(name, recipe), test, bench, predict, examples)


def _scores(key: str, test: TestSet, bench: Bench, predict: Predict, examples: int) -> Scores:
    cases = bench.cases.test
    volumes: list[VolumeScore] = []
    agreed = _Agreement(bench, test)
    pictures: dict[str, NDArray[np.uint8]] = {}
    shown = example_cases(cases, examples)
    for index, case in enumerate(cases):
        seen = seen_case(case, test, bench.spacing_mm)
        image = predict(seen)
        if not np.isfinite(image).all():
            raise ValueError(f"the prediction of {case.facts.patient} is not finite")
        volumes.append(CaseTruth(case, bench.spacing_mm).score(image, bench.bright_level))
        agreed.add(index, image)
        if index in shown:
            pictures[cluster_of(case.facts)] = picture(case, seen, image)
    slices = [score.slices for score in volumes]
    n_slices = sum(map(len, slices))
    facts = {"superpixels": agreed.summary(), "asked": dict(bench.place.data.test), "data": bench.cases.source}
    return Scores(
        key=key,
        test=test,
        patients=tuple(cluster_of(score.facts) for score in volumes for _ in score.slices),
        slices=np.concatenate(slices).astype(np.intp),
        values=slice_values(volumes) | agreed.values(n_slices),
        summary=summarise(volumes) | facts,
        superpixels=agreed.points(),
        pictures=pictures,
    )


def slice_values(volumes: Sequence[VolumeScore]) -> dict[str, FloatArray]:
    """Every metric of every region over the slices of all volumes; ``clean.`` where all have a clean truth."""
    found = {}
    for truth in truths_of(volumes):
        prefix = "" if truth == "dwi" else "clean."
        for region in REGIONS:
            for metric in METRICS:
                parts = [score.against[truth][region].metric(metric) for score in volumes]
                found[f"{prefix}{region}.{metric}"] = np.concatenate(parts)
    return found


class _Agreement:
    """Agreement over superpixels, for each number of them that the grid has room for.

    The undamaged test set is repeated with the other numbers of superpixels.
    """

    def __init__(self, bench: Bench, test: TestSet) -> None:
        room = bench.place.contract.grid_px**2 // _FRAME_PX_A_SEGMENT
        fitting = [number for number in sorted({SEGMENTS, *OTHER_SEGMENTS}, reverse=True) if number <= room]
        self.first = next((number for number in fitting if number <= SEGMENTS), 0)
        plain = test == TestSet(test.centres)
        self.scores: dict[int, list[SuperpixelScore]] = {n: [] for n in fitting if plain or n == self.first}
        self.left_out = None if self.scores else "the pixels of this grid are too large for superpixels"
        self._bench = bench

    def add(self, index: int, image: NDArray[np.float32]) -> None:
        """Compare the prediction of a volume."""
        try:
            for number, found in self.scores.items():
                found.append(self._bench.superpixels(index, number).score(image))
        except ImportError as error:
            self.scores, self.left_out = {}, str(error)

    def values(self, n_slices: int) -> dict[str, FloatArray]:
        """``superpixel.r`` and the others of the first number, ``superpixel_50.r`` ... of the other ones."""
        found = {f"superpixel.{name}": np.full(n_slices, np.nan) for name in AGREEMENTS}
        for number, scores in self.scores.items():
            prefix = "superpixel" if number == self.first else f"superpixel_{number}"
            for name in AGREEMENTS:
                found[f"{prefix}.{name}"] = np.concatenate([score.metrics[name] for score in scores])
        return found

    def summary(self) -> dict[str, Any]:
        """The first number of superpixels, figures of each number, or why there are none."""
        figures = {str(number): summarise_superpixels(scores).to_json() for number, scores in self.scores.items()}
        return {"segments": self.first if figures else None, "figures": figures, "left_out": self.left_out}

    def points(self) -> FloatArray:
        """(m, 2) means of measured and predicted image, a sample."""
        if not self.scores:
            return np.empty((0, 2))
        return np.stack(Scatter.of(self.scores[self.first]).thinned(_SCATTER_POINTS), axis=1)


def example_cases(cases: Sequence[CachedCase], count: int) -> frozenset[int]:
    """Choose volumes to show by their lesions alone, so that all methods show the same: small, middle, large.

    Where no volume has a labelled lesion, they are chosen from all.
    """
    pool = [index for index, case in enumerate(cases) if case.facts.lesion_ml] or list(range(len(cases)))
    pool.sort(key=lambda index: cases[index].facts.lesion_ml or 0.0)
    return frozenset(pool[int((place + 0.5) * len(pool) / count)] for place in range(count))


def picture(case: CachedCase, seen: CachedCase, image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """CT as it was given, measured DWI, prediction and lesion of the slice with the largest lesion, (4, H, W)."""
    where = shown_slice(case)
    low, high = TISSUE_HU
    planes = [
        (seen.hu_slices(where) - low) / (high - low),
        to_unit(case.target_slices(where)),
        unit32(image[where]),
        case.lesion_slices(where),
    ]
    return np.rint(np.clip(np.stack(planes), 0.0, 1.0) * 255.0).astype(np.uint8)
