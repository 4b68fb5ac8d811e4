"""Groups of test volumes whose figures are shown: all, centres, and strata of lesions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from train.evaluation.scoring import VolumeScore

ALL = "all"
CENTRE_PREFIX = "centre "
KIND_PREFIX = "kind "
#: Strata by the mean drop of HU in the lesion; a volume may be in several.
STRATA: Mapping[str, tuple[float, float]] = {
    "drop < 2 HU": (0.0, 2.0),
    "drop 2-4 HU": (2.0, 4.0),
    "drop > 4 HU": (4.0, float("inf")),
    "drop >= 3 HU": (3.0, float("inf")),
}
#: The stratum that the targets speak of.
CLEAR_DROP = "drop >= 3 HU"
#: Strata by lesion volume.
SIZES: Mapping[str, tuple[float, float]] = {
    "lesion < 1 ml": (0.0, 1.0),
    "lesion 1-10 ml": (1.0, 10.0),
    "lesion > 10 ml": (10.0, float("inf")),
}


def centre_group(centre: str) -> str:
    """Name of the group of a centre."""
    return f"{CENTRE_PREFIX}{centre}"


def clear_drop_group(centre: str) -> str:
    """Name of the group of a centre's lesions with a drop of 3 HU and more."""
    return f"{CLEAR_DROP}, {centre_group(centre)}"


def is_whole(group: str) -> bool:
    """Whether a group is all volumes or a whole centre, not a stratum of lesions."""
    return group == ALL or group.startswith(CENTRE_PREFIX)


def groups_of(scores: Sequence[VolumeScore]) -> Iterator[tuple[str, list[VolumeScore]]]:
    """All volumes, each centre, and each stratum of HU drop, lesion volume and lesion kind that has volumes.

    Strata need labels: volumes whose lesion, HU drop or kind is unknown are in none of them.
    """
    yield ALL, list(scores)
    centres = sorted({score.facts.centre for score in scores})
    for centre in centres:
        yield centre_group(centre), [score for score in scores if score.facts.centre == centre]
    sick = [score for score in scores if score.facts.lesion_ml]
    strata = [(name, [score for score in sick if _drops(score, name)]) for name in STRATA]
    strata += [
        (clear_drop_group(centre), [s for s in sick if s.facts.centre == centre and _drops(s, CLEAR_DROP)])
        for centre in centres
    ]
    strata += [
        (name, [score for score in sick if low <= (score.facts.lesion_ml or 0.0) < high])
        for name, (low, high) in SIZES.items()
    ]
    for kind in sorted({score.facts.lesion_kind for score in sick if score.facts.lesion_kind}):
        strata.append((f"{KIND_PREFIX}{kind}", [score for score in sick if score.facts.lesion_kind == kind]))
    yield from ((name, group) for name, group in strata if group)


def _drops(score: VolumeScore, stratum: str) -> bool:
    low, high = STRATA[stratum]
    drop = score.facts.hu_drop
    return drop is not None and low <= drop < high
