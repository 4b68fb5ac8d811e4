"""What one row of a table scored: figures over slices, patients and seeds, and values paired with another row's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.evaluation.superpixels import fisher_z
from train.experiments.records import FloatArray, Row, Scores
from train.experiments.statistics import SliceValues
from train.experiments.store import ScoreBook, control_name
from train.metrics import mse_paper

#: Metrics of which less is better; of ``slope`` neither is.
_LOWER = ("mse", "mse_paper", "mae", "nrmse")


def lower_is_better(name: str) -> bool:
    """Whether less is better of ``REGION.METRIC``."""
    return name.rpartition(".")[2] in _LOWER


@dataclass(frozen=True, slots=True)
class Figure:
    """Mean and spread of one metric; nan where they do not exist.

    Attributes
    ----------
    mean, sd : float
        Over slices: the means over seeds of a seed's mean and standard deviation (n - 1).
    patient_mean, patient_sd : float
        The same over means of patients.
    seed_sd : float
        Standard deviation (n - 1) over seeds of their means.
    n, n_patients : int
        Slices and patients with a value, in the seed that has most.
    """

    mean: float
    sd: float
    patient_mean: float
    patient_sd: float
    seed_sd: float
    n: int
    n_patients: int


@dataclass(frozen=True, slots=True)
class Pooled:
    """A figure that was pooled over volumes: mean over seeds; interval (one seed), deviation over seeds (several)."""

    value: float
    low: float
    high: float
    seed_sd: float


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """A row and the scores that exist of it.

    Attributes
    ----------
    row : Row
        As asked for.
    scores : tuple of Scores
        One a seed whose network was trained and scored; empty when none was.
    reasons : tuple of str
        Why others are missing, where that is known.
    """

    row: Row
    scores: tuple[Scores, ...]
    reasons: tuple[str, ...] = ()

    @property
    def n_wanted(self) -> int:
        """Networks that the row asked for; a control counts as one."""
        return max(1, len(self.row.trainings))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of every metric that a seed has, in its order."""
        names = {name: None for scores in self.scores for name in scores.values}
        if "frame.mse" in names:
            names["frame.mse_paper"] = None
        return tuple(names)

    def figure(self, name: str) -> Figure:
        """Mean and spread of a metric; correlations of superpixels are averaged over Fisher's z."""
        z = name.startswith("superpixel") and name.endswith(".r")
        over_slices, over_patients = [], []
        for scores in self.scores:
            values = _values(scores, name)
            if values is not None:
                over_slices.append(_Spread.of(values, z=z))
                over_patients.append(_Spread.of(_patient_means(values, scores.patients, z=z), z=z))
        means = np.array([spread.mean for spread in over_slices])
        return Figure(
            mean=_Spread.of(means).mean,
            sd=_known_mean([spread.sd for spread in over_slices]),
            patient_mean=_known_mean([spread.mean for spread in over_patients]),
            patient_sd=_known_mean([spread.sd for spread in over_patients]),
            seed_sd=_Spread.of(means).sd,
            n=max((spread.n for spread in over_slices), default=0),
            n_patients=max((spread.n for spread in over_patients), default=0),
        )

    def pooled(self, *path: str) -> Pooled:
        """A figure of `Scores.summary`, e.g. ``"contrast", "prediction"``."""
        found = [figure for scores in self.scores if (figure := _at(scores.summary, path))]
        values = [_number(figure.get("value")) for figure in found]
        only = found[0] if len(found) == 1 else {}
        return Pooled(
            value=_known_mean(values),
            low=_number(only.get("low")),
            high=_number(only.get("high")),
            seed_sd=_Spread.of(np.array(values, np.float64)).sd,
        )

    def fact(self, *path: str) -> float:
        """A plain number of the first seed's `Scores.summary`; nan without it."""
        return _number(self.summary(*path[:-1]).get(path[-1]))

    def summary(self, *path: str) -> Mapping[str, Any]:
        """What is at a path of the first seed's `Scores.summary`; nothing where it ends early."""
        return _at(self.scores[0].summary, path) if self.scores else {}


def row_scores(row: Row, book: Mapping[tuple[str, str], Scores]) -> RowScores:
    """Look up what exists of a row in (key of a training or control, key of a test set) -> scores."""
    missing = book.missing if isinstance(book, ScoreBook) else {}
    keys = [(name, row.test.key) for name in _names(row, book.keys() | missing.keys())]
    reasons = tuple(dict.fromkeys(missing[key] for key in keys if key in missing))
    return RowScores(row, tuple(book[key] for key in keys if key in book), reasons)


def _names(row: Row, known: AbstractSet[tuple[str, str]]) -> list[str]:
    """Keys of the seeds; a control goes by its name alone where nothing is known of it with the centres of its fit."""
    if row.control is None:
        return [training.key for training in row.trainings]
    full = control_name(row)
    return [row.control if (full, row.test.key) not in known and (row.control, row.test.key) in known else full]


def paired(row: RowScores, reference: RowScores, names: Sequence[str]) -> SliceValues:
    """Values of a row on the slices of another, means over its seeds; nan where it has no scores.

    Parameters
    ----------
    row : RowScores
        Whose values.
    reference : RowScores
        Whose slices; it has scores.
    names : sequence of str
        Metrics, ``REGION.METRIC``.
    """
    like = reference.scores[0]
    nothing = np.full((1, len(like.patients)), np.nan)
    values = {
        name: np.mean([_on_slices(scores, like, name) for scores in row.scores] or nothing, axis=0) for name in names
    }
    return SliceValues(like.patients, like.slices, values)


def _on_slices(scores: Scores, like: Scores, name: str) -> FloatArray:
    values = _values(scores, name)
    if values is None:
        return np.full(len(like.patients), np.nan)
    if scores.patients == like.patients and np.array_equal(scores.slices, like.slices):
        return values
    place = {key: index for index, key in enumerate(zip(scores.patients, scores.slices.tolist(), strict=True))}
    wanted = [place.get(key, -1) for key in zip(like.patients, like.slices.tolist(), strict=True)]
    return np.append(values, np.nan)[wanted]


def _values(scores: Scores, name: str) -> FloatArray | None:
    """Values of a metric; ``mse_paper`` of a region is made of its ``mse``."""
    if name.endswith(".mse_paper"):
        plain = scores.values.get(name.removesuffix("_paper"))
        return None if plain is None else plain * mse_paper(1.0)
    return scores.values.get(name)


@dataclass(frozen=True, slots=True)
class _Spread:
    """Mean, standard deviation (n - 1) and number of values that are known."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: FloatArray, *, z: bool = False) -> _Spread:
        """Of (n,) values; ``z`` averages correlations over Fisher's z."""
        known = values[~np.isnan(values)]
        if not known.size:
            return cls(math.nan, math.nan, 0)
        mean = float(np.tanh(fisher_z(known).mean()) if z else known.mean())
        return cls(mean, float(known.std(ddof=1)) if known.size > 1 else math.nan, int(known.size))


@lru_cache(maxsize=64)
def _patient_numbers(patients: tuple[str, ...]) -> NDArray[np.intp]:
    return np.asarray(np.unique(np.array(patients), return_inverse=True)[1], np.intp)


def _patient_means(values: FloatArray, patients: tuple[str, ...], *, z: bool) -> FloatArray:
    """Mean of each patient over values that are known, in the order of their names; nan without any."""
    known = ~np.isnan(values)
    numbers, kept = _patient_numbers(patients), values[known]
    count = np.bincount(numbers[known], minlength=int(numbers.max(initial=-1)) + 1)
    total = np.bincount(numbers[known], weights=fisher_z(kept) if z else kept, minlength=len(count))
    means: FloatArray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return np.tanh(means) if z else means


def _known_mean(values: Sequence[float]) -> float:
    return _Spread.of(np.array(values, np.float64)).mean


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """The mapping at a path; empty where it ends early."""
    here: object = summary
    for name in path:
        here = here.get(name) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
