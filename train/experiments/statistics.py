"""Paired comparison of methods on the same slices: Wilcoxon signed-rank test, Holm adjustment, effect size, interval.

Every comparison is made twice. On slices, as JEIT250643 presumably did (its smallest printed p-values lie at the floors
for the numbers of test slices), and on patient means, which is the primary one: slices of a patient are not
independent. The interval of the mean difference is a percentile bootstrap over whole patients in both.
Differences are ours minus theirs; whether a positive one is good depends on the metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from train.data.cache import CaseFacts
from train.evaluation.scoring import METRICS, VolumeScore
from train.metrics import Interval

FloatArray = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
#: Fewer differences than this cannot reach p < 0.05 on two sides whatever they are (5: 2 / 2**5 = 0.0625).
MIN_PAIRS = 6
#: Below this a p-value is printed as a bound: the normal tail ends near 1e-308.
SMALLEST_P = 1e-300
#: How the test was made, for result files.
TEST = "Wilcoxon signed-rank, two-sided, normal approximation, zero differences left out"


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Wilcoxon signed-rank test of paired values.

    Attributes
    ----------
    p : float or None
        Two-sided; 0 where it underflows, see `p_text`; None when the test cannot be made.
    statistic : float or None
        The smaller sum of ranks; None without a difference.
    effect : float or None
        Matched-pairs rank-biserial correlation, (W+ - W-) / (W+ + W-), in -1..1: 1 when ours is the larger in every
        pair that differs. None without a difference.
    n, n_zero, n_missing : int
        Complete pairs, those of them without a difference, and pairs left out because a value is nan.
    reason : str or None
        Why there is no p.
    """

    p: float | None
    statistic: float | None
    effect: float | None
    n: int
    n_zero: int
    n_missing: int
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the printed form of p."""
        return asdict(self) | {"p_text": p_text(self.p)}


@dataclass(frozen=True, slots=True)
class Level:
    """One comparison with one kind of unit, slices or patients.

    Attributes
    ----------
    test : SignedRank
        On the units.
    difference : Interval
        Mean over the units of ours minus theirs, with its 95 % interval when whole patients are drawn; ``n`` counts
        patients. The interval is nan with fewer than two patients.
    p_holm : float or None
        p adjusted for its family; None outside a family or without p.
    """

    test: SignedRank
    difference: Interval
    p_holm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values in full precision; nan becomes None."""
        mean = {"value": self.difference.value, "low": self.difference.low, "high": self.difference.high}
        figures = {name: None if math.isnan(x) else x for name, x in mean.items()} | {"n": self.difference.n}
        holms = {"p_holm": self.p_holm, "p_holm_text": p_text(self.p_holm)}
        return self.test.to_json() | holms | {"difference": figures}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against one method in one metric.

    Attributes
    ----------
    method, metric : str
        With whom, and in what.
    slices, patients : Level
        On slices, and on the means of patients over their complete pairs (the primary one).
    """

    method: str
    metric: str
    slices: Level
    patients: Level

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        levels = {"slices": self.slices.to_json(), "patients": self.patients.to_json()}
        return {"method": self.method, "metric": self.metric, **levels}


@dataclass(frozen=True, slots=True)
class Family:
    """Comparisons (methods x metrics) with p-values adjusted together, and resamples and seed of their intervals."""

    comparisons: tuple[Comparison, ...]
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what a reader must know of the test."""
        return {
            "test": TEST,
            "primary": "patients",
            "adjustment": f"Holm, over {len(self.comparisons)} comparisons",
            "interval": f"95 %, {self.resamples} bootstrap samples of whole patients, seed {self.seed}",
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def cluster_of(facts: CaseFacts) -> str:
    """Name of the patient of a case: archives of two centres may use the same names."""
    return f"{facts.centre}/{facts.patient}"


@dataclass(frozen=True, slots=True, eq=False)
class SliceValues:
    """Metrics of one method on a series of slices.

    Attributes
    ----------
    patients : tuple of str
        (n,) whose each slice is.
    slices : ndarray
        (n,) numbers of the slices in their volumes.
    values : Mapping[str, ndarray]
        Metric -> (n,), nan where it does not exist.
    """

    patients: tuple[str, ...]
    slices: NDArray[np.intp]
    values: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        if {len(self.slices), *map(len, self.values.values())} != {len(self.patients)}:
            raise ValueError("patients, slices and every metric need one length")

    @classmethod
    def joined(cls, parts: Iterable[tuple[str, NDArray[np.intp], Mapping[str, FloatArray]]]) -> SliceValues:
        """Join volumes, each given as patient, numbers of its slices, and metrics: those of a `SuperpixelScore`, say.

        Raises
        ------
        ValueError
            Without a volume, or when volumes have different metrics.
        """
        volumes = list(parts)
        if not volumes:
            raise ValueError("there is no volume to compare on")
        names = list(volumes[0][2])
        if any(set(values) != set(names) for _, _, values in volumes):
            raise ValueError("the volumes have different metrics")
        return cls(
            tuple(patient for patient, slices, _ in volumes for _ in slices),
            np.concatenate([slices for _, slices, _ in volumes]),
            {name: np.concatenate([values[name] for _, _, values in volumes]) for name in names},
        )

    @classmethod
    def of(
        cls,
        scores: Sequence[VolumeScore],
        *,
        truth: str = "dwi",
        region: str = "brain",
        metrics: Sequence[str] = METRICS,
        patient_of: Callable[[CaseFacts], str] = cluster_of,
    ) -> SliceValues:
        """Metrics of scored volumes; ``patient_of`` names the patient of a case, where several cases are one's."""
        return cls.joined(
            (patient_of(s.facts), s.slices, {name: s.against[truth][region].metric(name) for name in metrics})
            for s in scores
        )


def p_text(p: float | None) -> str:
    """A p-value as printed: three decimals, powers of ten below 0.001, ``<1e-300`` below that, ``n/a`` for None."""
    if p is None:
        return "n/a"
    if p < SMALLEST_P:
        return "<1e-300"
    return f"{p:.3f}" if p >= 1e-3 else f"{p:.1e}"


def _pair(ours: ArrayLike, theirs: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as (n,) float64, nan in both where either is nan."""
    a, b = np.array(ours, np.float64), np.array(theirs, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"paired values are two arrays of one length, not of shapes {a.shape} and {b.shape}")
    if np.isinf(a).any() or np.isinf(b).any():
        raise ValueError("infinite values have no difference: cap the metric")
    missing = np.isnan(a) | np.isnan(b)
    a[missing] = b[missing] = np.nan
    return a, b


def signed_rank(ours: ArrayLike, theirs: ArrayLike) -> SignedRank:
    """Wilcoxon signed-rank test of two methods on the same units.

    Two-sided with the normal approximation, corrected for ties and not for continuity; pairs without a difference are
    left out (Wilcoxon's own way). There is a reason in the place of p when no pair is complete, none differs, or fewer
    than `MIN_PAIRS` differ.

    Parameters
    ----------
    ours, theirs : array_like
        (n,) values; a pair with nan is left out and counted.

    Raises
    ------
    ValueError
        Values of two lengths or with more than one axis, or infinite ones.
    """
    a, b = _pair(ours, theirs)
    n_all, known = len(a), ~np.isnan(a)
    a, b = a[known], b[known]
    difference = (a - b)[a != b]
    counts = (len(a), len(a) - len(difference), n_all - len(a))
    if not difference.size:
        return SignedRank(None, None, None, *counts, "all differences are zero" if len(a) else "no complete pair")
    ranks = stats.rankdata(np.abs(difference))
    above, below = float(ranks[difference > 0].sum()), float(ranks[difference < 0].sum())
    effect = (above - below) / (above + below)
    if len(difference) < MIN_PAIRS:
        reason = f"only {len(difference)} non-zero differences, at least {MIN_PAIRS} are needed"
        return SignedRank(None, min(above, below), effect, *counts, reason)
    found = stats.wilcoxon(a, b, zero_method="wilcox", alternative="two-sided", method="asymptotic")
    return SignedRank(float(found.pvalue), min(above, below), effect, *counts)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Adjust the p-values of a family (Holm, Scandinavian Journal of Statistics 6, 1979).

    A comparison without p keeps None and still counts: the size of a family is decided before its data are seen.

    Raises
    ------
    ValueError
        When a p-value is not in 0..1.
    """
    known = sorted(((p, name) for name, p in p_values.items() if p is not None), key=lambda item: item[0])
    if not all(0.0 <= p <= 1.0 for p, _ in known):
        raise ValueError("p-values are in 0..1")
    found: dict[Key, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for place, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        found[name] = largest
    return found


def _sums(values: FloatArray, patients: Sequence[Hashable]) -> tuple[FloatArray, FloatArray]:
    """Sum and number of each patient's values that are not nan, (patients,)."""
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], np.intp)
    known = ~np.isnan(values)
    total = np.bincount(groups[known], weights=values[known], minlength=len(numbers)).astype(np.float64)
    return total, np.bincount(groups[known], minlength=len(numbers)).astype(np.float64)


@lru_cache(maxsize=4)
def _draws(n_patients: int, resamples: int, seed: int) -> FloatArray:
    """How often each patient is in each bootstrap sample, (1 + resamples, n); in the first row once each.

    The same for every comparison of as many patients, so that a family is drawn once.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_patients, np.full(n_patients, 1.0 / n_patients), size=resamples)
    counts: FloatArray = np.concatenate([np.ones((1, n_patients)), drawn.astype(np.float64)])
    counts.flags.writeable = False
    return counts


def clustered_intervals(
    difference: ArrayLike, patients: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Interval, Interval]:
    """95 % intervals of the mean over slices and of the mean over patient means when whole patients are drawn.

    Parameters
    ----------
    difference : array_like
        (n,); nan is left out, and so is a patient that has nothing else.
    patients : sequence
        (n,) whose each is.

    Raises
    ------
    ValueError
        When there is not one patient a value, or ``resamples`` is not positive.
    """
    values = np.asarray(difference, np.float64)
    if values.shape != (len(patients),):
        raise ValueError(f"{len(patients)} patients for values of shape {values.shape}")
    if resamples < 1:
        raise ValueError("at least one bootstrap sample is needed")
    total, count = _sums(values, patients)
    total, count = total[count > 0], count[count > 0]
    n = len(count)
    if n < 2:
        single = Interval(float(total[0] / count[0]) if n else math.nan, math.nan, math.nan, n)
        return single, single
    draws = _draws(n, resamples, seed)
    return Interval.of((draws @ total) / (draws @ count), n), Interval.of(draws @ (total / count) / n, n)


def _patient_means(values: FloatArray, patients: Sequence[Hashable]) -> FloatArray:
    """Mean of each patient over values that are not nan, (patients,); nan without any."""
    total, count = _sums(values, patients)
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0), np.float64)


def compare(
    ours: ArrayLike, theirs: ArrayLike, patients: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two methods in one metric on (n,) values of the same slices, whose patients are given; without names.

    Raises
    ------
    ValueError
        As `signed_rank` and `clustered_intervals` do.
    """
    a, b = _pair(ours, theirs)
    on_slices, on_patients = clustered_intervals(a - b, patients, resamples=resamples, seed=seed)
    means = signed_rank(_patient_means(a, patients), _patient_means(b, patients))
    return Comparison("", "", Level(signed_rank(a, b), on_slices), Level(means, on_patients))


def adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Holm-adjust a family, slices and patients each by themselves.

    Raises
    ------
    ValueError
        When two comparisons have the same method and metric.
    """
    if len({(c.method, c.metric) for c in comparisons}) != len(comparisons):
        raise ValueError("a method and metric is compared once in a family")
    slices = holm({(c.method, c.metric): c.slices.test.p for c in comparisons})
    patients = holm({(c.method, c.metric): c.patients.test.p for c in comparisons})
    return tuple(
        replace(c, slices=replace(c.slices, p_holm=p_slices), patients=replace(c.patients, p_holm=p_patients))
        for c, p_slices, p_patients in zip(comparisons, slices.values(), patients.values(), strict=True)
    )


def compare_methods(
    ours: SliceValues,
    others: Mapping[str, SliceValues],
    *,
    metrics: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Family:
    """Compare ours with every other method (its name -> values) in every metric, by default all of ours, as one family.

    Raises
    ------
    ValueError
        When a method has other slices than ours or lacks a metric.
    """
    names = tuple(ours.values) if metrics is None else tuple(metrics)
    for method, values in (("ours", ours), *others.items()):
        if values.patients != ours.patients or not np.array_equal(values.slices, ours.slices):
            raise ValueError(f"{method} was not scored on the same slices in the same order")
        if lacking := [name for name in names if name not in values.values]:
            raise ValueError(f"{method} has no {', '.join(lacking)}")
    comparisons = []
    for method, theirs in others.items():
        for name in names:
            found = compare(ours.values[name], theirs.values[name], ours.patients, resamples=resamples, seed=seed)
            comparisons.append(replace(found, method=method, metric=name))
    return Family(adjusted(comparisons), resamples, seed)
