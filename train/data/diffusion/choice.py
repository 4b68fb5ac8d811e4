"""The CT and the diffusion series of one case, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dicom_node.dicom.choice import choose_series
from dicom_node.dicom.rules import SelectionSettings
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.facts import B0_LIMIT, SeriesFacts

__all__ = ["LeftOut", "PairChoice", "choose_pair", "judge_pair"]

#: A clinical DWI has b = 800 to 1500; what lies below 500 shows perfusion and T2 rather than diffusion.
_LOWEST_B: Final = 500.0

TargetKind = Literal["dwi", "adc"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A series that was not chosen: its UID and one sentence why."""

    series_instance_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class PairChoice:
    """The chosen pair and the rest.

    Attributes
    ----------
    ct, dwi : SeriesFacts
        The pair.
    left_out : tuple of LeftOut
        All other series.
    b0 : SeriesFacts or None
        A series of nothing but b = 0 in the frame of reference of `dwi`, where that one has none itself: some sites
        store each b value as a series of its own.
    """

    ct: SeriesFacts
    dwi: SeriesFacts
    left_out: tuple[LeftOut, ...]
    b0: SeriesFacts | None = None


def choose_pair(series: Sequence[SeriesFacts], *, target: TargetKind = "dwi") -> tuple[SeriesFacts, SeriesFacts]:
    """Choose the CT and the diffusion series of a case; `judge_pair` gives the reasons as well."""
    choice = judge_pair(series, target=target)
    return choice.ct, choice.dwi


def judge_pair(series: Sequence[SeriesFacts], *, target: TargetKind = "dwi") -> PairChoice:
    """Choose the CT and the diffusion series of a case and say why the others are left out.

    The CT is chosen by the node's own rules (`dicom_node.dicom.choice`: original axial head slices, no contrast, soft
    kernel, thickness near 5 mm, coverage), so that training sees what the node will see. The diffusion series is the
    one with the highest b value of at least 500 s/mm^2; then the most slices; then the scanner's average before single
    directions; then the lower UID.

    Parameters
    ----------
    series : sequence of SeriesFacts
        What `find_series` found in the folders of one case.
    target : str, default "dwi"
        ``adc`` looks for an ADC map instead.

    Raises
    ------
    DiffusionError
        ``no_ct``, ``no_dwi``, ``different_patients``; ``duplicate_uid`` when nothing but such a series is left.
    """
    left_out = [LeftOut(item.series_instance_uid, item.reason) for item in series if item.kind == "other"]
    ct = _choose_ct([item for item in series if item.kind == "ct"], left_out)
    kinds = ("dwi", "trace") if target == "dwi" else ("adc",)
    candidates = [item for item in series if item.kind in kinds]
    left_out += [
        LeftOut(item.series_instance_uid, f"{item.kind} series, target is {target}")
        for item in series
        if item.kind in ("dwi", "trace", "adc") and item.kind not in kinds
    ]
    dwi = _choose_dwi(candidates, target, left_out)
    if ct.same_patient_key and dwi.same_patient_key and ct.same_patient_key != dwi.same_patient_key:
        raise DiffusionError("different_patients", "the CT and the diffusion series belong to different patients")
    b0 = _companion(dwi, candidates)
    rest = tuple(item for item in left_out if b0 is None or item.series_instance_uid != b0.series_instance_uid)
    return PairChoice(ct, dwi, rest, b0)


def _companion(dwi: SeriesFacts, candidates: Sequence[SeriesFacts]) -> SeriesFacts | None:
    """Find the b = 0 series that belongs to a weighted one."""
    if not dwi.b_values or dwi.b_values[0] <= B0_LIMIT or dwi.frame_of_reference_uid is None:
        return None
    fitting = [
        item
        for item in candidates
        if item.b_values
        and item.b_values[-1] <= B0_LIMIT
        and not item.faults
        # The frame of reference holds for one patient on one table: study and patient are settled by it.
        and item.frame_of_reference_uid == dwi.frame_of_reference_uid
    ]
    return min(fitting, key=lambda item: (-item.n_slices, item.series_instance_uid), default=None)


def _sound(candidates: Sequence[SeriesFacts], code: str, what: str, left_out: list[LeftOut]) -> list[SeriesFacts]:
    """Drop series whose UID is claimed twice."""
    if not candidates:
        raise DiffusionError(code, f"no {what} among the series")
    sound = [item for item in candidates if not item.faults]
    left_out += [
        LeftOut(item.series_instance_uid, "two different series claim this UID") for item in candidates if item.faults
    ]
    if not sound:
        raise DiffusionError("duplicate_uid", f"the only {what} has a UID that two different series claim")
    return sound


def _choose_ct(candidates: Sequence[SeriesFacts], left_out: list[LeftOut]) -> SeriesFacts:
    sound = {item.series_instance_uid: item for item in _sound(candidates, "no_ct", "CT series", left_out)}
    verdicts = choose_series({uid: item.headers for uid, item in sound.items()}, SelectionSettings())
    left_out += [LeftOut(v.series_instance_uid, f"{v.code}: {v.reason}") for v in verdicts if not v.chosen]
    chosen = next((verdict for verdict in verdicts if verdict.chosen), None)
    if chosen is None:
        reasons = "; ".join(f"{verdict.code}: {verdict.reason}" for verdict in verdicts)
        raise DiffusionError("no_ct", f"no CT series can be used ({reasons})")
    return sound[chosen.series_instance_uid]


def _choose_dwi(candidates: Sequence[SeriesFacts], target: TargetKind, left_out: list[LeftOut]) -> SeriesFacts:
    what = "diffusion-weighted series" if target == "dwi" else "ADC series"
    sound = _sound(candidates, "no_dwi", what, left_out)
    # Without any b value a series may still be the DWI; reading it asks for the value or refuses.
    usable = [i for i in sound if target == "adc" or not i.b_values or i.b_values[-1] >= _LOWEST_B]
    left_out += [
        LeftOut(item.series_instance_uid, f"highest b value {item.b_values[-1]:g}, at least {_LOWEST_B:g} needed")
        for item in sound
        if item not in usable
    ]
    if not usable:
        raise DiffusionError("no_dwi", f"no {what} with b >= {_LOWEST_B:g} among the series")
    ranked = sorted(usable, key=_rank)
    best = ranked[0]
    left_out += [LeftOut(item.series_instance_uid, _why_not(best, item)) for item in ranked[1:]]
    return best


def _rank(item: SeriesFacts) -> tuple[float, int, bool, str]:
    highest = item.b_values[-1] if item.b_values else 0.0
    return -highest, -item.n_slices, item.kind != "trace", item.series_instance_uid


def _why_not(best: SeriesFacts, item: SeriesFacts) -> str:
    highest, other = (part.b_values[-1] if part.b_values else 0.0 for part in (best, item))
    if other < highest:
        return f"highest b value {other:g}, the chosen series has {highest:g}"
    if item.n_slices < best.n_slices:
        return f"{item.n_slices} slice positions, the chosen series has {best.n_slices}"
    return "another series of the same b value and coverage is taken"
