"""Targets of a bundle trained on the phantom, and the ratio of its error to the best simple control's.

The targets compare like with like: lesions with a drop of 3 HU and more where a centre was trained on, everything
pooled where it was not; brain MSE against the clean truth, because noise and misregistration are in every prediction's
error alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from train.evaluation.groups import ALL, centre_group, clear_drop_group
from train.evaluation.scoring import VolumeScore
from train.evaluation.summary import RESAMPLES, Draws, region_totals, truths_of

NETWORK = "jmmda"
#: The measured DWI itself, scored as if it were a prediction: the ceiling of every lesion figure.
MEASURED = "measured_dwi"
#: Networks scored beside the one under test are named with this before their description.
OTHER_PREFIX = "beside: "

AUC_IN_CENTRE, AUC_UNSEEN = 0.92, 0.85
MSE_RATIO_IN_CENTRE, MSE_RATIO_UNSEEN = 0.75, 0.80


def ratio_to_best_control(
    methods: Mapping[str, Sequence[VolumeScore]], centre: str | None = None, *, resamples: int = RESAMPLES
) -> dict[str, Any] | None:
    """Brain MSE of the network over that of the best simple control, under the same bootstrap draws of volumes.

    Parameters
    ----------
    methods : Mapping[str, sequence of VolumeScore]
        Scores in the same order of volumes for every method.
    centre : str, optional
        Only this centre's volumes.
    resamples : int
        Bootstrap draws.

    Returns
    -------
    dict or None
        Interval of the ratio with the ``control`` and the ``truth`` (the clean one where there is one); None without
        controls.
    """
    chosen = {
        name: [score for score in scores if centre in (None, score.facts.centre)] for name, scores in methods.items()
    }
    controls = [name for name in chosen if name not in (NETWORK, MEASURED) and not name.startswith(OTHER_PREFIX)]
    if not controls or not chosen[NETWORK]:
        return None
    truth = truths_of(chosen[NETWORK])[-1]
    totals = {name: region_totals(scores, truth, "brain") for name, scores in chosen.items()}
    best = min(controls, key=lambda name: float(totals[name]["squared"].sum()))
    draws = Draws(len(chosen[NETWORK]), resamples=resamples)
    values = draws.ratio(totals[NETWORK]["squared"], totals[best]["squared"])
    return draws.json(values) | {"control": best, "truth": truth}


def targets_of(
    figures: Mapping[str, Mapping[str, Any]],
    ratios: Mapping[str, Mapping[str, Any] | None],
    trained: Collection[str],
    centres: Sequence[str],
) -> list[dict[str, Any]]:
    """What was aimed at and what was reached, for each centre.

    Parameters
    ----------
    figures : Mapping
        Group -> `summarise` of the network.
    ratios : Mapping
        Group -> `ratio_to_best_control`.
    trained : collection of str
        Centres in the training split.
    centres : sequence of str
        Centres in the test split.

    Returns
    -------
    list of dict
        ``what``, ``group``, ``wanted``, ``value``, ``low``, ``high``, ``met``; a figure that could not be measured is
        left out.
    """
    rows = []
    for centre in centres:
        seen = centre in trained
        group = clear_drop_group(centre) if seen else centre_group(centre)
        if group in figures:
            auc = figures[group]["lesion_auc_pooled"]
            what = "lesion AUC, drop of 3 HU and more" if seen else "lesion AUC, unseen centre, pooled"
            rows.append(_row(what, group, auc, AUC_IN_CENTRE if seen else AUC_UNSEEN, above=True))
        ratio = ratios.get(centre_group(centre))
        if ratio:
            what = f"brain MSE / best control's ({ratio['control']}, against {ratio['truth']})"
            wanted = MSE_RATIO_IN_CENTRE if seen else MSE_RATIO_UNSEEN
            rows.append(_row(what, centre_group(centre), ratio, wanted, above=False))
    return [row for row in rows if row["value"] is not None]


def _row(what: str, group: str, figure: Mapping[str, Any], wanted: float, *, above: bool) -> dict[str, Any]:
    value = figure["value"]
    met = None if value is None else bool(value >= wanted if above else value <= wanted)
    return {
        "what": what,
        "group": group,
        "wanted": f"{'>=' if above else '<='} {wanted:.2f}",
        "value": value,
        "low": figure["low"],
        "high": figure["high"],
        "met": met,
    }


def ratios_of(methods: Mapping[str, Sequence[VolumeScore]], centres: Sequence[str]) -> dict[str, Any]:
    """`ratio_to_best_control` over all volumes and for each centre."""
    found: dict[str, Any] = {ALL: ratio_to_best_control(methods)}
    for centre in centres:
        found[centre_group(centre)] = ratio_to_best_control(methods, centre)
    return found
