"""What passes between the parts of an experiment: which networks to train, what to test them on, what they scored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.recipe import Recipe

FloatArray = NDArray[np.float64]

#: Keys of a recipe that do not decide what is learnt, so that runs which differ in them alone are one run.
_NAMES = ("name", "description", "log", "run", "max_minutes")


@dataclass(frozen=True, slots=True)
class Training:
    """One network to train: experiments that ask for the same one share it.

    Attributes
    ----------
    recipe : Recipe
        Complete, with its seed.
    """

    recipe: Recipe

    @property
    def key(self) -> str:
        """Folder name: method, centres, seed, and a digest of everything that decides the weights."""
        values = {name: value for name, value in self.recipe.to_json().items() if name not in _NAMES}
        values["data"] = {name: value for name, value in values["data"].items() if name not in ("test", "workers")}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
        data = self.recipe.data
        centres = sorted(name for name, count in data.train.items() if count) or list(data.centres_train) or ["all"]
        return f"{self.recipe.method}-{'+'.join(centres)}-s{self.recipe.seed}-{digest}"


MaskSource = Literal["ct", "zeros", "dilated", "brain_of_dwi", "lesion"]


@dataclass(frozen=True, slots=True)
class TestSet:
    """What a network is tested on.

    Attributes
    ----------
    centres : tuple of str
        Their test splits, pooled.
    noise_hu : float
        Added to the CT: standard deviation.
    shift_mm, rotation_deg : float
        By how much the CT is moved against the DWI.
    mask : str
        ``ct``: the node's. ``zeros`` and ``dilated`` (by 5 mm) damage it. ``brain_of_dwi`` and ``lesion`` are oracles:
        they know the answer, and say so in every caption.
    """

    centres: tuple[str, ...]
    noise_hu: float = 0.0
    shift_mm: float = 0.0
    rotation_deg: float = 0.0
    mask: MaskSource = "ct"

    __test__ = False  # not a test class, whatever its name

    @property
    def is_oracle(self) -> bool:
        """Whether the mask knows what is to be predicted."""
        return self.mask in ("brain_of_dwi", "lesion")

    @property
    def key(self) -> str:
        """File name."""
        default = TestSet(self.centres)
        changed = [
            f"{name}-{getattr(self, name)}"
            for name in ("noise_hu", "shift_mm", "rotation_deg", "mask")
            if getattr(self, name) != getattr(default, name)
        ]
        return "_".join(["+".join(self.centres), *changed])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: a method or variant, one network a seed.

    Attributes
    ----------
    label : str
        As printed.
    trainings : tuple of Training
        One a seed; empty for a simple control.
    test : TestSet
        What they are tested on.
    control : str or None
        Name in `train.controls` where the row is a simple control; it is fitted on the training volumes of ``centres``.
    centres : tuple of str
        Centres that were trained on.
    paper : str or None
        The row of the paper's table that it stands beside, see `Table.paper`.
    """

    label: str
    trainings: tuple[Training, ...]
    test: TestSet
    control: str | None = None
    centres: tuple[str, ...] = ()
    paper: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table of an experiment.

    Attributes
    ----------
    key, title : str
        For files and captions.
    rows : tuple of Row
        In the order in which they are printed; the one that all are compared with is ``ours``.
    ours : str
        Label of JMMDA-GAN's row, or of the full variant.
    paper : str or None
        Key of the paper's table in `train.experiments.paper.TABLES`.
    note : str
        One or more sentences under the table.
    shows : tuple of str
        What is printed: ``image`` (MSE, PSNR, SSIM), ``lesion`` (AUC, contrast, detection by size), ``superpixel``.
    """

    key: str
    title: str
    rows: tuple[Row, ...]
    ours: str
    paper: str | None = None
    note: str = ""
    shows: tuple[str, ...] = ("image",)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named set of tables, e.g. ``table2``; what it needs trained follows from their rows."""

    name: str
    title: str
    tables: tuple[Table, ...]

    def trainings(self) -> tuple[Training, ...]:
        """Networks to train, each once, in the order of first use."""
        found: dict[str, Training] = {}
        for table in self.tables:
            for row in table.rows:
                for training in row.trainings:
                    found.setdefault(training.key, training)
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Scores:
    """What one network (or control, or the measured DWI itself) scored on one test set.

    Attributes
    ----------
    key : str
        `Training.key`, or the name of a control.
    test : TestSet
        Where.
    patients : tuple of str
        (n slices) ``CENTRE/PATIENT`` of each scored slice.
    slices : ndarray
        (n slices,) its number in the volume.
    values : Mapping[str, ndarray]
        (n slices,) each: ``REGION.METRIC`` against the measured DWI (``brain.mse``, ``frame.psnr_db`` ...), the same
        with ``clean.`` before it against the clean one where there is one, and ``superpixel.r``; nan where undefined.
    summary : Mapping
        `train.evaluation.summary.summarise` of all volumes, for the lesion figures.
    superpixels : ndarray
        (m, 2) mean grey of measured and predicted DWI of superpixels, a sample of them, for a scatter plot.
    pictures : Mapping[str, ndarray]
        Patient -> (4, H, W) uint8 of one slice: CT, measured DWI, prediction, lesion.
    """

    key: str
    test: TestSet
    patients: tuple[str, ...]
    slices: NDArray[np.intp]
    values: Mapping[str, FloatArray]
    summary: Mapping[str, Any] = field(default_factory=dict)
    superpixels: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays."""
        return {
            "key": self.key,
            "test": dataclasses.asdict(self.test),
            "patients": list(self.patients),
            "summary": dict(self.summary),
        }
