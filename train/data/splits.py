"""Who is trained on and who is tested on: whole patients, spread evenly over centres and lesion sizes.

A patient is in one split only; official lists of an archive stand; what an earlier run decided stays, so that a cache
which grows never moves a patient from test to training. The paper's own split was almost surely made on slices, which
puts neighbours of one patient into training and test: `slice_splits` mimics it and `LEAKAGE_WARNING` goes with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from train.data.cache import SPLITS, Split

SHARES: Final[Mapping[Split, float]] = {"train": 0.7, "validation": 0.1, "test": 0.2}
SEED: Final = 2025
SLICE_TRAIN_SHARE: Final = 0.8
LEAKAGE_WARNING: Final = (
    "split = slice: neighbouring slices of one patient are in training and test, as presumably in JEIT250643. Scores "
    "on this split say nothing about new patients."
)
#: Between equals the rarer split goes first, so that small sets have a test patient at all.
_TIES: Final[tuple[Split, ...]] = ("validation", "test", "train")
_TERCILES: Final = 3


class SplitError(ValueError):
    """Raise this when no split without leakage exists.

    Parameters
    ----------
    code
        ``leak``: one patient is wanted in two splits.
    reason
        One sentence.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SplitCase:
    """What decides the split of one case.

    Attributes
    ----------
    patient, centre : str
        Who and where; several cases of one patient stay together.
    lesion_ml : float or None
        None when no mask exists.
    official : str or None
        Split that the archive prescribes. A split that an archive lists for a centre gets nobody else of that centre.
    kept : str or None
        Split that an earlier run decided.
    """

    patient: str
    centre: str
    lesion_ml: float | None
    official: Split | None = None
    kept: Split | None = None


@dataclass(frozen=True, slots=True)
class SliceShare:
    """Slices of one case under `slice_splits`, ascending."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def assign_splits(cases: Iterable[SplitCase], *, seed: int = SEED) -> dict[str, Split]:
    """Split patients 70/10/20, stratified by centre and tercile of lesion volume.

    Within a centre, patients stand in order of tercile and, inside one, of a hash of seed and name; each in turn goes
    to the split that lacks most. The result depends on the set of cases only, not on their order.

    Parameters
    ----------
    cases : iterable of SplitCase
        All cases, those with a fixed split included.
    seed : int
        Another seed gives another split.

    Returns
    -------
    dict[str, str]
        Patient -> split.

    Raises
    ------
    SplitError
        ``leak`` when one patient is wanted in two splits.
    """
    patients = _patients(cases)
    result: dict[str, Split] = {}
    for centre in sorted({patient.centre for patient in patients}):
        own = [patient for patient in patients if patient.centre == centre]
        closed = {patient.official for patient in own if patient.official is not None}
        shares = _open_shares(closed)
        counts: Counter[Split] = Counter()
        dealt = 0
        for patient in _ordered(own, seed):
            fixed = patient.official or patient.kept
            split = fixed or _most_wanting(shares, counts, dealt)
            result[patient.patient] = split
            if split not in closed:
                counts[split] += 1
                dealt += 1
    return result


def _most_wanting(shares: Mapping[Split, float], counts: Mapping[Split, int], dealt: int) -> Split:
    """The split that lacks most of its share of the next patient and those before."""
    return max(_TIES, key=lambda name: round(shares[name] * (dealt + 1) - counts[name], 9))


def _patients(cases: Iterable[SplitCase]) -> list[SplitCase]:
    """One entry a patient: the sum of the lesions, the first centre by name, the fixed split of any case."""
    grouped: dict[str, list[SplitCase]] = defaultdict(list)
    for case in cases:
        grouped[case.patient].append(case)
    patients = []
    for name in sorted(grouped):
        group = grouped[name]
        known = [case.lesion_ml for case in group if case.lesion_ml is not None]
        patients.append(
            SplitCase(
                patient=name,
                centre=min(case.centre for case in group),
                lesion_ml=sum(sorted(known)) if known else None,
                official=_only(name, {case.official for case in group if case.official}),
                kept=_only(name, {case.kept for case in group if case.kept}),
            )
        )
    return patients


def _only(patient: str, splits: set[Split]) -> Split | None:
    if len(splits) > 1:
        raise SplitError(
            "leak", f"{patient} is wanted in the splits {', '.join(sorted(splits))}; it can be in one only"
        )
    return next(iter(splits), None)


def _open_shares(closed: set[Split]) -> dict[Split, float]:
    """Shares of the splits that are dealt to: an archive's own test list is complete as it is."""
    left = {split: 0.0 if split in closed else SHARES[split] for split in SPLITS}
    total = sum(left.values())
    return {split: share / total for split, share in left.items()} if total else dict(SHARES)


def _ordered(patients: Sequence[SplitCase], seed: int) -> list[SplitCase]:
    known = [patient for patient in patients if patient.lesion_ml is not None]
    by_size = sorted(known, key=lambda patient: (patient.lesion_ml, _hash(seed, patient.patient)))
    tercile = {patient.patient: rank * _TERCILES // len(by_size) for rank, patient in enumerate(by_size)}
    return sorted(patients, key=lambda patient: (tercile.get(patient.patient, _TERCILES), _hash(seed, patient.patient)))


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def slice_splits(slices: Mapping[str, Sequence[int]], *, seed: int = SEED) -> dict[str, SliceShare]:
    """Split slices 80/20 without regard to patients: floor(0.8 N) for training, as the counts of JEIT250643 suggest.

    Parameters
    ----------
    slices : Mapping[str, sequence of int]
        Usable slices of each case.
    seed : int
        Another seed gives another split.
    """
    every = [(name, int(index)) for name, indices in slices.items() for index in indices]
    every.sort(key=lambda item: _hash(seed, f"{item[0]}:{item[1]}"))
    for_training = set(every[: int(SLICE_TRAIN_SHARE * len(every))])
    return {
        name: SliceShare(
            train=tuple(sorted(index for index in indices if (name, index) in for_training)),
            test=tuple(sorted(index for index in indices if (name, index) not in for_training)),
        )
        for name, indices in slices.items()
    }


def leaking_patients(members: Iterable[tuple[str, Split]]) -> tuple[str, ...]:
    """Patients that occur in more than one split, sorted; ``members`` are (patient, split)."""
    seen: dict[str, set[Split]] = defaultdict(set)
    for patient, split in members:
        seen[patient].add(split)
    return tuple(sorted(patient for patient, splits in seen.items() if len(splits) > 1))
