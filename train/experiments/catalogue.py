"""Every experiment as tables of rows: which networks are trained, on what, and what they are tested on.

A row names its networks by their recipes, so rows and experiments that ask for the same network share it: tables 4 and
5 test the checkpoints of tables 2 and 3, the ablation's last row is a row of table 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from train.experiments.budgets import ArchiveData, Budget
from train.experiments.records import Experiment, Row, Table, TestSet, Training
from train.experiments.rows import METHODS, OURS, PLAIN, RowMaker
from train.recipe import JMMDA
from train.registry import title_of

#: Newer methods and controls that are trained.
ANCHORS: Final = ("unet_l1", "pix2pix", "resunet_masked", "resvit", "cddpm", "bbdm")
#: A prediction of noise needs far more steps than a short budget has before it is an image at all.
SHORT_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"cddpm": {"predicts": "image"}})
#: Other readings of what the paper cites, and its base.
READINGS: Final = (
    "hisgan",
    "argan",
    "argan_shadow",
    "medgan_casnet",
    "multicycle_paper",
    "rescycle_paper",
    "pix2pixhd",
    "pix2pixhd_local",
)
#: Simple controls as they are printed, see `train.controls`.
CONTROLS: Final[Mapping[str, str]] = {
    "HU polynomial": "hu_polynomial",
    "HU lookup": "hu_lookup",
    "mean image": "mean_image",
}
MEASURED: Final = {"measured DWI": "measured_dwi"}
WAVELETS: Final = ("haar", "db2", "db4", "sym4", "coif1", "bior2.2")
HEADS: Final = (1, 2, 4, 8)
#: How much longer the trainings of the experiment `length` are. A budget that counts in epochs is not made longer.
LONGER: Final = 4.0
_GRID_WAVELETS, _GRID_HEADS = ("haar", "db2", "sym4"), (2, 4, 8)

#: The loss without what pix2pixHD's lacks, and without the discriminator's part.
BASE_LOSS: Final = {"pixel": "none", "pixel_weight": 0.0}
PIXEL_LOSS: Final = {"gan_weight": 0.0, "feature_matching_weight": 0.0}
_WHOLE: Final[Mapping[str, Any]] = MappingProxyType({})


def _in_centre(make: RowMaker, number: int, centre: str) -> Experiment:
    key = f"table{number}"
    title = f"Table {number}: trained and tested on centre {centre}"
    return Experiment(key, title, (Table(key, title, make.paper_rows((centre,)), OURS, paper=key),))


def _cross_centre(make: RowMaker, number: int, trained: str, tested: str) -> Experiment:
    key = f"table{number}"
    title = f"Table {number}: trained on centre {trained}, tested on centre {tested}"
    crossing = Table(
        key,
        title,
        make.paper_rows((trained,), (tested,)),
        OURS,
        paper=key,
        note="The checkpoints of the in-centre tables, without fine-tuning; nothing is fitted on the tested centre.",
    )
    test = TestSet((tested,))
    drop = Table(
        f"{key}_drop",
        f"What crossing costs: tested on centre {tested}",
        (
            make.row(f"trained on {tested}", JMMDA, (tested,), test=test, paper="in-centre"),
            make.row(f"trained on {trained}", JMMDA, (trained,), test=test, paper="cross-centre"),
        ),
        f"trained on {tested}",
        paper=f"{key}_drop",
    )
    return Experiment(key, title, (crossing, drop))


def _mixed(make: RowMaker) -> Experiment:
    both = (make.first, make.second)
    title = f"Table 6: trained on centres {make.first} and {make.second}"
    whole = Table("table6", f"{title}, tested on both", make.paper_rows(both), OURS, paper="table6")
    parts = (
        Table(f"table6_{centre}", f"{title}, tested on centre {centre}", make.paper_rows(both, (centre,)), OURS)
        for centre in both
    )
    return Experiment("table6", title, (whole, *parts))


_ABLATION: Final[Mapping[str, Mapping[str, Any]]] = {
    "Pix2PixHD": PLAIN,
    "Pix2PixHD+MGFF": {"mfab": False},
    "Pix2PixHD+MFAB": {"mgff": "none"},
    OURS: {},
}


def _table7(make: RowMaker) -> Experiment:
    title = f"Table 7: ablation on centre {make.second}"

    def table(key: str, words: str, loss: Mapping[str, Any]) -> Table:
        rows = (
            make.variant(f"A{number} {label}", paper=label, generator=generator, loss=loss)
            for number, (label, generator) in enumerate(_ABLATION.items())
        )
        return Table(key, f"{title}, {words}", tuple(rows), f"A3 {OURS}", paper="table7")

    full = table("table7", "full loss (with the robust pixel loss)", {})
    return Experiment("table7", title, (full, table("table7_base", "loss of pix2pixHD (no pixel loss)", BASE_LOSS)))


def _sensitivity(make: RowMaker) -> Experiment:
    share = make.budget.sensitivity_share
    length = f" Trained {share:g} times as long as in the other tables." if share != 1.0 else ""
    ours = _setting("haar", 4)

    def table(key: str, title: str, settings: Sequence[tuple[str, int]]) -> Table:
        rows = (
            make.variant(_setting(*pair), generator={"wavelet": pair[0], "heads": pair[1]}, share=share)
            for pair in settings
        )
        note = f"The paper names Haar with four heads as its optimum and does not print the grid.{length}"
        return Table(key, f"{title}, centre {make.second}", tuple(rows), ours, note=note)

    tables = [
        table("wavelets", "Wavelet, at four heads", [(wavelet, 4) for wavelet in WAVELETS]),
        table("heads", "Attention heads, with Haar", [("haar", heads) for heads in HEADS]),
    ]
    if make.budget.thorough:
        grid = [(wavelet, heads) for wavelet in _GRID_WAVELETS for heads in _GRID_HEADS]
        tables.append(table("grid", "Wavelets and attention heads", grid))
    return Experiment("sensitivity", "Sensitivity to wavelet and attention heads", tuple(tables))


def _setting(wavelet: str, heads: int) -> str:
    return f"{wavelet}, {heads} head{'s' if heads > 1 else ''}"


def _superpixel(make: RowMaker) -> Experiment:
    tables = (
        Table(
            f"superpixel_{centre}",
            f"Correlation of superpixel means, centre {centre}",
            (*make.paper_rows((centre,)), *make.control_rows(CONTROLS, centre)),
            OURS,
            note="SLIC on the measured DWI alone, so that regions are the same for all methods; our definition.",
            shows=("superpixel",),
        )
        for centre in (make.first, make.second)
    )
    return Experiment("superpixel", "Superpixel grey-mean correlation", tuple(tables))


def _ablation(make: RowMaker) -> Experiment:
    full = f"A3 {OURS}"
    rows = (
        make.variant("A4 Pix2PixHD + robust loss", generator=PLAIN),
        make.variant("A4b Pix2PixHD, pixel loss only", generator=PLAIN, loss=PIXEL_LOSS),
        make.variant(f"A4b {OURS}, pixel loss only", loss=PIXEL_LOSS),
        make.variant("A4c Pix2PixHD + U-Net skips", generator={**PLAIN, "unet_skips": True}),
        make.variant("A5 mask as input channels", generator={"mgff": "concat"}),
        make.variant("A6 fusion by mean", generator={"afw": "mean"}),
        make.variant("A6 fusion by concatenation", generator={"afw": "concat"}),
        make.variant("A7 low frequencies only", generator={"mfab_paths": "low"}),
        make.variant("A7 high frequencies only", generator={"mfab_paths": "high"}),
        make.variant("A9 Pix2PixHD, as many weights", generator=make.widened()),
        make.variant(full),
    )
    title = f"Ablations A4 to A9 on centre {make.second}"
    note = "All with the full loss unless said otherwise. A8, the source of the mask, is the experiment `masks`."
    return Experiment("ablation", title, (Table("ablation", title, rows, full, note=note, shows=("image", "lesion")),))


def _anchors(make: RowMaker) -> Experiment:
    centre = make.second
    ours = make.row(OURS, JMMDA, (centre,))
    short = make.budget.images is not None
    trained = tuple(
        make.row(title_of(method), method, (centre,), options=SHORT_OPTIONS.get(method, {}) if short else {})
        for method in ANCHORS
    )
    newer = Table(
        "anchors",
        f"Newer methods and controls, centre {centre}",
        (*trained, *make.control_rows({**CONTROLS, **MEASURED}, centre), ours),
        OURS,
        note="Controls see HU and position only. The measured DWI is the ceiling of what the lesion figures can say."
        + (" Trained this briefly, diffusion predicts the image instead of the noise." if short else ""),
        shows=("image", "lesion"),
    )
    paper = (make.row(title_of(method), method, (centre,)) for label, method in METHODS.items() if label != OURS)
    cited = (make.row(title_of(method), method, (centre,)) for method in READINGS)
    readings = Table(
        "readings",
        f"Both readings of the compared methods, centre {centre}",
        (*paper, *cited, ours),
        OURS,
        note="The five names of the paper fit one public repository, whose networks differ from the works it cites.",
    )
    return Experiment("anchors", "Newer methods, controls and other readings", (newer, readings))


def _masks(make: RowMaker) -> Experiment:
    centres = (make.first, make.second) if make.budget.thorough else (make.second,)

    def given(centre: str) -> tuple[Row, ...]:
        rows = (
            make.row(f"{label}+mask", method, (centre,), options={"mask": True})
            for label, method in METHODS.items()
            if label != OURS
        )
        return (*rows, make.row(OURS, JMMDA, (centre,)))

    compared = tuple(
        Table(
            f"masks_{centre}",
            f"Every method with the mask as input, centre {centre}",
            given(centre),
            OURS,
            note="The paper's comparison gives the mask to JMMDA-GAN alone.",
        )
        for centre in centres
    )
    oracle = _conditions(
        make,
        "mask_source",
        "Source of the mask (A8)",
        {
            "mask of the CT": {},
            "brain of the measured DWI as mask (oracle)": {"mask": "brain_of_dwi"},
            "true lesion as mask (oracle)": {"mask": "lesion"},
        },
        note="The mask is exchanged at test alone: the network was trained with the mask of the CT, and what one that "
        "was trained with an oracle's would gain is not known from this. The cached volumes hold one mask, the CT's.",
    )
    return Experiment("masks", "Who is given which mask", (*compared, oracle))


def _conditions(
    make: RowMaker,
    key: str,
    title: str,
    conditions: Mapping[str, Mapping[str, Any]],
    *,
    generator: Mapping[str, Any] = _WHOLE,
    note: str = "",
) -> Table:
    """A network of the second centre under several conditions: label -> fields of `TestSet`; the first is undamaged."""
    rows = tuple(
        make.variant(label, generator=generator, test=TestSet((make.second,), **changes))
        for label, changes in conditions.items()
    )
    where = f"{title}, centre {make.second}"
    return Table(key, where, rows, rows[0].label, note=note, shows=("image", "lesion"))


def _robustness(make: RowMaker) -> Experiment:
    damage: dict[str, dict[str, Any]] = {
        "as measured": {},
        **{f"CT noise of {noise:g} HU more": {"noise_hu": noise} for noise in (2.0, 5.0, 10.0)},
        "CT shifted by 2 mm": {"shift_mm": 2.0},
        "CT turned by 3 degrees": {"rotation_deg": 3.0},
        "CT shifted by 2 mm and turned by 3 degrees": {"shift_mm": 2.0, "rotation_deg": 3.0},
    }
    masks = {"mask of the CT": {}, "mask 5 mm too large": {"mask": "dilated"}, "mask empty": {"mask": "zeros"}}
    tables = (
        _conditions(make, "damaged_ct", f"{OURS}: noise and misregistration", damage),
        _conditions(
            make, "damaged_ct_base", "Pix2PixHD, same loss: noise and misregistration", damage, generator=PLAIN
        ),
        _conditions(make, "damaged_mask", f"{OURS}: damaged mask", masks),
    )
    return Experiment("robustness", "Robustness to noise, misregistration and masks", tables)


def _detection(make: RowMaker) -> Experiment:
    tables = (
        Table(
            f"detection_{centre}",
            f"Lesions by size, centre {centre}",
            (*make.paper_rows((centre,)), *make.control_rows({**CONTROLS, **MEASURED}, centre)),
            OURS,
            note="The measured DWI is the ceiling: what the same rule finds in the image that is to be predicted.",
            shows=("lesion",),
        )
        for centre in (make.first, make.second)
    )
    return Experiment("detection", "Lesion contrast and detection by size", tuple(tables))


def _length(make: RowMaker) -> Experiment:
    """The usual length and a longer one: an order of the other tables may be that of networks that have just begun."""
    centre = make.second
    shares = (1.0, LONGER) if make.budget.images is not None else (1.0 / LONGER, 1.0)

    def trained(label: str, method: str, **changes: Any) -> tuple[Row, ...]:  # noqa: ANN401
        names = (label if share == 1.0 else f"{label}, {share:g} times as long" for share in shares)
        return tuple(
            make.row(name, method, (centre,), share=share, **changes) for name, share in zip(names, shares, strict=True)
        )

    rows = (
        *trained(title_of("resunet_masked"), "resunet_masked"),
        *trained("Pix2PixHD + robust loss", JMMDA, generator=PLAIN),
        *trained(f"{OURS}, pixel loss only", JMMDA, loss=PIXEL_LOSS),
        *trained(OURS, JMMDA),
        *make.control_rows(CONTROLS, centre),
    )
    title = f"Length of the training, centre {centre}"
    note = "Controls are fitted at once: they show how much is to be had without an image-to-image network."
    return Experiment("length", title, (Table("length", title, rows, OURS, note=note, shows=("image", "lesion")),))


_BUILDERS: Final[Mapping[str, Callable[[RowMaker], Experiment]]] = {
    "table2": lambda make: _in_centre(make, 2, make.first),
    "table3": lambda make: _in_centre(make, 3, make.second),
    "table4": lambda make: _cross_centre(make, 4, make.first, make.second),
    "table5": lambda make: _cross_centre(make, 5, make.second, make.first),
    "table6": _mixed,
    "table7": _table7,
    "sensitivity": _sensitivity,
    "superpixel": _superpixel,
    "ablation": _ablation,
    "anchors": _anchors,
    "masks": _masks,
    "robustness": _robustness,
    "detection": _detection,
    "length": _length,
}

#: Names of the experiments, in the order in which `all_experiments` runs them.
EXPERIMENTS: Final = tuple(_BUILDERS)


def experiment(name: str, budget: Budget, *, data: ArchiveData | None = None) -> Experiment:
    """One experiment.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`.
    budget : Budget
        What a network may cost, and the seeds.
    data : ArchiveData, optional
        Instead of the phantom.

    Raises
    ------
    KeyError
        When there is no experiment of that name.
    """
    return _BUILDERS[name](RowMaker(budget, data))


def all_experiments(budget: Budget, *, data: ArchiveData | None = None) -> tuple[Experiment, ...]:
    """Every experiment."""
    return tuple(experiment(name, budget, data=data) for name in EXPERIMENTS)


def all_trainings(experiments: Sequence[Experiment]) -> tuple[Training, ...]:
    """Networks of several experiments, each once, in the order of first use."""
    found = {training.key: training for one in experiments for training in one.trainings()}
    return tuple(found.values())
