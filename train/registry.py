"""Every method that a recipe can name: JMMDA-GAN and the comparison methods."""

from __future__ import annotations

import dataclasses

from torch import nn

from train.baselines import (
    argan,
    argan_shadow,
    bbdm,
    cddpm,
    hisgan,
    medgan_casnet,
    medgan_nie,
    multicycle_paper,
    multicycle_repo,
    pix2pix,
    pix2pixhd,
    rescycle,
    resunet,
    resvit,
)
from train.baselines.base import Channels, Entry, Options, Translator
from train.devices import Devices
from train.guard import StepGuard
from train.methods.base import Method
from train.methods.jmmda import JmmdaMethod
from train.recipe import JMMDA, Recipe, contract_of, generator_settings
from train.recipe.reader import TableReader

_MODULES = (
    pix2pixhd,
    hisgan,
    argan,
    argan_shadow,
    medgan_nie,
    medgan_casnet,
    multicycle_repo,
    multicycle_paper,
    rescycle,
    pix2pix,
    resunet,
    resvit,
    cddpm,
    bbdm,
)

#: The comparison methods by name, in the order of the tables.
BASELINES: dict[str, Entry] = {entry.name: entry for module in _MODULES for entry in module.ENTRIES}


def method_names() -> tuple[str, ...]:
    """Names that ``method`` of a recipe may have."""
    return (JMMDA, *BASELINES)


def comparison_options(recipe: Recipe, reader: TableReader | None = None) -> Options | None:
    """Options of a comparison method: the method's own, with what the recipe's ``[options]`` sets otherwise.

    Parameters
    ----------
    recipe : Recipe
        Its method is in `BASELINES`.
    reader : TableReader, optional
        Notes what does not fit; None is returned then.
    """
    defaults = BASELINES[recipe.method].options
    values = dataclasses.asdict(defaults) | dict(recipe.options)
    options: Options | None = (reader or TableReader("recipe", {})).table(type(defaults), values, "options")
    return options


def _usable_options(recipe: Recipe) -> Options:
    options = comparison_options(recipe)
    if options is None:
        raise ValueError(f"the options of {recipe.method} were not checked when the recipe was read")
    return options


def channels_of(recipe: Recipe) -> Channels:
    """Channels of CT and mask that the recipe's ``[input]`` makes."""
    contract = contract_of(recipe)
    return Channels(contract.ct_channel_count, len(contract.mask_channels))


def build_method(recipe: Recipe, devices: Devices, guard: StepGuard) -> Method:
    """Build the method a recipe names, with fresh weights drawn from the recipe's seed."""
    if recipe.method == JMMDA:
        return JmmdaMethod(recipe, devices, guard)
    method: Method = BASELINES[recipe.method].method(
        recipe, devices, guard, _usable_options(recipe), channels_of(recipe)
    )
    return method


def build_translator(recipe: Recipe) -> nn.Module:
    """Network that predicts, with fresh weights: called with CT and mask channels, it returns (B, 1, H, W)."""
    if recipe.method == JMMDA:
        from jmmda_model.network.generator import build_generator

        return build_generator(generator_settings(recipe.generator))
    return build_comparison(recipe)


def build_comparison(recipe: Recipe) -> Translator:
    """Network of a comparison method that predicts, with fresh weights."""
    return BASELINES[recipe.method].method.translator(_usable_options(recipe), channels_of(recipe))


def training_evaluations(recipe: Recipe) -> int:
    """How often a step of a comparison method evaluates that network for each slice, see `BaselineMethod`."""
    return BASELINES[recipe.method].method.evaluations(_usable_options(recipe))


def build_companions(recipe: Recipe) -> dict[str, nn.Module]:
    """Networks that a comparison method needs in training only, with fresh weights."""
    return BASELINES[recipe.method].method.companions(_usable_options(recipe), channels_of(recipe))


def title_of(method: str) -> str:
    """Name of a method as tables print it."""
    return "JMMDA-GAN" if method == JMMDA else BASELINES[method].title
