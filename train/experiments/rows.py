"""Rows of experiments: a method or a variant of JMMDA-GAN, trained on some centres and tested on some."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch._subclasses.fake_tensor import FakeTensorMode

from jmmda_model.network.counting import count_parameters
from jmmda_model.network.generator import build_generator
from jmmda_model.network.settings import GeneratorSettings
from train.experiments.budgets import PHANTOM_CENTRES, ArchiveData, Budget, recipe_for
from train.experiments.records import Row, TestSet, Training
from train.recipe import JMMDA, generator_settings

OURS: Final = "JMMDA-GAN"
#: The paper's methods as it prints them, and the reading of each that its numbers very likely come from.
METHODS: Final[Mapping[str, str]] = {
    "HisGAN": "hisgan_repo",
    "ARGAN": "argan_repo",
    "MedGAN": "medgan_nie",
    "MultiCycleGAN": "multicycle_repo",
    "ResCycleGAN": "rescycle_repo",
    OURS: JMMDA,
}
#: JMMDA-GAN without its modules: the global generator of pix2pixHD.
PLAIN: Final[Mapping[str, Any]] = {"mgff": "none", "mfab": False}


class RowMaker:
    """Makes the rows of one budget.

    Parameters
    ----------
    budget : Budget
        What a network may cost, and the seeds.
    data : ArchiveData, optional
        Instead of the phantom.
    """

    def __init__(self, budget: Budget, data: ArchiveData | None = None) -> None:
        self.budget, self.data = budget, data
        self.first, self.second = data.centres if data else PHANTOM_CENTRES

    def networks(self, method: str, centres: Sequence[str], **changes: Any) -> tuple[Training, ...]:  # noqa: ANN401
        """One network a seed; ``changes`` as `recipe_for` takes them."""
        return tuple(
            Training(recipe_for(method, tuple(centres), self.budget, seed, data=self.data, **changes))
            for seed in self.budget.seeds
        )

    def row(
        self,
        label: str,
        method: str,
        centres: Sequence[str],
        *,
        test: TestSet | None = None,
        paper: str | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Row:
        """Row of a method that is trained on some centres and tested, unless ``test`` says otherwise, on the same."""
        where = test or TestSet(tuple(centres))
        return Row(label, self.networks(method, centres, **changes), where, centres=tuple(centres), paper=paper)

    def paper_rows(self, centres: Sequence[str], tested: Sequence[str] | None = None) -> tuple[Row, ...]:
        """The paper's methods."""
        test = TestSet(tuple(tested or centres))
        return tuple(self.row(label, method, centres, test=test, paper=label) for label, method in METHODS.items())

    def control_rows(self, controls: Mapping[str, str], centre: str) -> tuple[Row, ...]:
        """Controls that are fitted on the training volumes of a centre and tested on it: scores are kept by name."""
        return tuple(
            Row(label, (), TestSet((centre,)), control=control, centres=(centre,))
            for label, control in controls.items()
        )

    def variant(self, label: str, *, paper: str | None = None, **changes: Any) -> Row:  # noqa: ANN401
        """Row of the ablation: a variant of JMMDA-GAN on the second centre."""
        return self.row(label, JMMDA, (self.second,), paper=paper, **changes)

    def widened(self) -> dict[str, Any]:
        """Plain network with as many filters as give it the weights of the whole one."""
        (training, *_) = self.networks(JMMDA, (self.second,))
        return {**PLAIN, "ngf": equal_filters(generator_settings(training.recipe.generator))}


@functools.cache
def equal_filters(whole: GeneratorSettings) -> int:
    """First-layer filters with which the network without MGFF and MFAB comes nearest to a whole one's parameters."""

    def parameters(settings: GeneratorSettings) -> int:
        with FakeTensorMode():
            return count_parameters(build_generator(settings))

    def plain(filters: int) -> int:
        return parameters(dataclasses.replace(whole, ngf=filters, **PLAIN))

    goal, low, high = parameters(whole), whole.ngf, 4 * whole.ngf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plain(middle) <= goal else (low, middle)
    return min((low, high), key=lambda filters: abs(plain(filters) - goal))
