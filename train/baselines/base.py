"""What the comparison methods share: options, schedule, the network that predicts, and the plumbing of a step.

A method says which networks it has and what one update does; placing, precision, optimisers, the moving average,
skipped steps and exact resumption are the same for all.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from train.data.dataset import Batch
from train.devices import Devices
from train.guard import StepGuard
from train.methods.average import MovingAverage
from train.methods.base import Moment, StepReport
from train.methods.optimisers import build_adam, set_rate
from train.methods.twins import frozen_twin
from train.recipe import Recipe, StageRecipe
from train.state import HasState

GENERATOR = "generator"


@dataclass(frozen=True, slots=True)
class Options:
    """Options that every comparison method has; a method's own ones are fields of a subclass.

    Attributes
    ----------
    width : float
        Share of the channels of the layer table; 1 is the method as described.
    mask : bool
        Give the networks the mask channels beside the CT. The paper's comparison does not.
    """

    width: float = field(default=1.0, metadata={"low": 1 / 64, "high": 4.0})
    mask: bool = False


O = TypeVar("O", bound=Options)  # noqa: E741  (the usual letter of a type variable)


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels of the images: ``ct`` and ``mask`` as the contract makes them."""

    ct: int
    mask: int

    def given(self, options: Options) -> int:
        """Channels that a generator with these options sees."""
        return self.ct + (self.mask if options.mask else 0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the method's source trains it: rate and betas of Adam, batch, epochs at that rate, epochs of linear decay."""

    learning_rate: float = 1e-4
    beta1: float = 0.5
    beta2: float = 0.999
    batch: int = 8
    hold_epochs: int = 100
    decay_epochs: int = 100


class Translator(nn.Module):
    """The network of a method that predicts, called like all others: CT and mask channels in, image out.

    Parameters
    ----------
    core : nn.Module
        Takes the concatenated input (B, C, H, W). Its answer is the image (B, 1, H, W) in [-1, 1]; a subclass may
        choose it from several things that the core returns.
    with_mask : bool
        Whether the mask channels belong to the input.
    """

    def __init__(self, core: nn.Module, *, with_mask: bool) -> None:
        super().__init__()
        self.core = core
        self.with_mask = with_mask

    def given(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Input of the core: (B, C, H, W)."""
        return torch.cat([ct, mask], dim=1) if self.with_mask else ct

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W)."""
        image: Tensor = self.core(self.given(ct, mask))
        return image

    def once(self, ct: Tensor, mask: Tensor) -> object:
        """One evaluation of the core as training has it; a prediction of some methods has many, see `forward`."""
        return self(ct, mask)


class BaselineMethod(ABC, Generic[O]):
    """Networks, optimisers and the plumbing of a comparison method's step.

    A subclass sets `optimised` (and `rate_shares` where its networks learn at different rates) and writes `translator`,
    `companions` and `update`.

    Parameters
    ----------
    recipe : Recipe
        Rates, precision, averaging and the seed of weights and of every random number.
    devices : Devices
        Where everything lives. Gradients are averaged over the processes in `descend`, so networks are called as they
        are, as often and in whatever order a method likes.
    guard : StepGuard
        Decides whether an optimiser takes its step.
    options : Options
        The method's own.
    channels : Channels
        Of the images.
    """

    #: Networks that each optimiser updates, by name.
    optimised: ClassVar[Mapping[str, tuple[str, ...]]] = {
        GENERATOR: (GENERATOR,),
        "discriminator": ("discriminator",),
    }
    #: Learning rate of an optimiser as a share of the stage's, where it is not 1.
    rate_shares: ClassVar[Mapping[str, float]] = {}

    def __init__(self, recipe: Recipe, devices: Devices, guard: StepGuard, options: O, channels: Channels) -> None:
        self.recipe, self.devices, self.guard, self.options, self.channels = recipe, devices, guard, options, channels
        torch.manual_seed(recipe.seed)
        generator = self._placed(self.translator(options, channels))
        companions = self.companions(options, channels)
        self._networks = {GENERATOR: generator} | {name: self._placed(net) for name, net in companions.items()}
        self.generator = cast(Translator, generator)
        #: The companions on the same weights without gradients to them: they steer, they do not learn.
        self.still = {name: frozen_twin(self._networks[name]).train() for name in companions}
        self.average: MovingAverage[nn.Module] = MovingAverage(generator, recipe.optimiser.ema_decay)
        self.memory: dict[str, HasState] = {}
        self._new_optimisers()
        self._stage: StageRecipe = recipe.stages[0]
        self._first: tuple[Tensor, Tensor, bool] | None = None

    @classmethod
    @abstractmethod
    def translator(cls, options: O, channels: Channels) -> Translator:
        """Network that predicts, with fresh weights drawn from torch's global random generator."""

    @classmethod
    @abstractmethod
    def companions(cls, options: O, channels: Channels) -> dict[str, nn.Module]:
        """Networks that only training needs, by name, with fresh weights."""

    @abstractmethod
    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of every network through `descend`; returns the weighted terms for the log.

        Random numbers may be drawn from torch's global generator: it is seeded with the position of the step.
        """

    @classmethod
    def grid_step(cls, options: O) -> int:
        """Image sides must be a multiple of this."""
        return 4

    @classmethod
    def adapted(cls, options: O, grid_px: int) -> O:
        """The options with the depth that images of this side allow; unchanged where nothing is too deep."""
        return options

    @classmethod
    def evaluations(cls, options: O) -> int:
        """How often the core of the network that predicts is evaluated for each slice before its optimiser's step.

        All of them are kept for the same backward pass, so memory is planned with this.
        """
        return 1

    # The protocol of `train.methods.base.Method`.

    def parts(self) -> dict[str, HasState]:
        """Everything with a state, by name."""
        optimisers = {f"{name}_optimiser": cast(HasState, found) for name, found in self._optimisers.items()}
        networks = {name: cast(HasState, network) for name, network in self._networks.items()}
        return {**networks, "average": cast(HasState, self.average.network), **optimisers, **self.memory}

    def networks(self) -> dict[str, nn.Module]:
        """Every network, by name."""
        return dict(self._networks)

    def start_stage(self, stage: StageRecipe) -> None:
        """Go on from the averaged weights with fresh optimisers."""
        self.generator.load_state_dict(self.average.network.state_dict())
        self._new_optimisers()

    def step(self, batch: Batch, moment: Moment) -> StepReport:
        """One update of every network."""
        self._stage, self._first = moment.stage, None
        for name, optimiser in self._optimisers.items():
            share = self.rate_shares.get(name, 1.0)
            set_rate(optimiser, moment.stage.learning_rate * moment.rate * share)
        with self._seeded(moment):
            terms = self.update(batch, moment)
        if self._first is None:
            raise RuntimeError(f"{type(self).__name__}.update did not descend the generator's loss")
        loss, norm, taken = self._first
        if taken:
            self.average.update(self.generator, moment.step)
        return StepReport(loss, {name: term.detach() for name, term in terms.items()}, norm)

    @torch.no_grad()
    def predict(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image of the averaged weights, in fp32: (B, 1, H, W) in [-1, 1]."""
        image: Tensor = self.average.network(ct, mask)
        return image.float()

    def fusion_weights(self, ct: Tensor, mask: Tensor) -> list[list[float]]:
        """None: there is no adaptive fusion."""
        return []

    def evaluated_weights(self) -> dict[str, Any]:
        """Averaged weights of the network that predicts."""
        return dict(self.average.network.state_dict())

    # What subclasses use.

    def given(self, batch: Batch) -> Tensor:
        """Input of the generator's core."""
        x = self.generator.given(batch.ct, batch.mask)
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.run.channels_last else x

    def run(self, network: nn.Module, *inputs: Tensor) -> Any:  # noqa: ANN401  (whatever the network returns)
        """Call a network in the precision of the stage; every tensor of its answer is fp32."""
        if self._stage.precision == "fp32":
            return network(*inputs)
        with torch.autocast(self.devices.device.type, dtype=torch.bfloat16):
            return _in_fp32(network(*inputs))

    def network(self, name: str) -> nn.Module:
        """A network by name."""
        return self._networks[name]

    def descend(self, name: str, terms: Mapping[str, Tensor]) -> bool:
        """One step of an optimiser down the sum of weighted terms, taken only where loss and gradient are finite.

        Parameters
        ----------
        name : str
            Of the optimiser, see `optimised`.
        terms : Mapping[str, Tensor]
            Weighted scalars.

        Returns
        -------
        bool
            Whether the step was taken, as far as it is known.
        """
        optimiser = self._optimisers[name]
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        if self.devices.world > 1:
            for parameter in parameters:
                parameter.grad = self.devices.mean(cast(Tensor, parameter.grad))
        clip = self.recipe.optimiser.clip_norm
        norm = clip_grad_norm_(parameters, clip) if clip > 0.0 else get_total_norm([p.grad for p in parameters])
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        counts = name == GENERATOR and self._first is None
        taken = self.guard.step(optimiser, finite, counts=counts)
        if counts:
            self._first = (loss.detach(), norm.detach(), taken)
        return taken

    def _placed(self, network: nn.Module) -> nn.Module:
        layout = torch.channels_last if self.recipe.run.channels_last else torch.preserve_format
        return cast(Any, network).to(self.devices.device, memory_format=layout)  # type: ignore[no-any-return]

    def _new_optimisers(self) -> None:
        self._optimisers = {
            name: build_adam(
                self.recipe.optimiser,
                self.devices.device,
                [parameter for network in networks for parameter in self._networks[network].parameters()],
            )
            for name, networks in self.optimised.items()
        }

    @contextlib.contextmanager
    def _seeded(self, moment: Moment) -> Iterator[None]:
        """Random numbers of a step as a function of its position, so that a resumed run draws the same."""
        stage = self.recipe.stages.index(moment.stage)
        seed = np.random.SeedSequence([self.recipe.seed, stage, moment.step, self.devices.rank])
        device = self.devices.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed.generate_state(1)[0]))
            yield


def _in_fp32(answer: Any) -> Any:  # noqa: ANN401  (tensors, in lists and tuples of any depth)
    if isinstance(answer, Tensor):
        return answer.float()
    if isinstance(answer, list | tuple):
        return type(answer)(_in_fp32(item) for item in answer)
    return answer


@dataclass(frozen=True, slots=True)
class Entry:
    """A comparison method as the registry knows it.

    Attributes
    ----------
    name : str
        Name in recipes and tables' first column key, e.g. ``argan``.
    title : str
        As printed in tables.
    source : str
        What it is a reading of, in a few words: work, and for ``*_repo`` and ``*_paper`` which reading.
    method : type of BaselineMethod
        Trains it.
    options : Options
        The method's defaults; their type is the recipe's ``[options]`` table.
    schedule : Schedule
        How its source trains it.
    """

    name: str
    title: str
    source: str
    method: type[BaselineMethod[Any]]
    options: Options
    schedule: Schedule = Schedule()
