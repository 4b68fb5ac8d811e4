"""Checks of a recipe whose method is one of the comparison methods."""

from __future__ import annotations

from train.recipe.faults import unknown_word
from train.recipe.reader import TableReader
from train.recipe.tables import DiscriminatorRecipe, LossRecipe, Recipe


def check_comparison(reader: TableReader, recipe: Recipe) -> None:
    """Note what a comparison method cannot take: unknown names and options, tables of JMMDA-GAN, sizes of images."""
    from train.registry import BASELINES, comparison_options, method_names  # torch, so only where it is needed

    if recipe.method not in BASELINES:
        reader.fault("method", f"unknown method; {unknown_word(recipe.method, method_names())}")
        return
    _check_tables(reader, recipe)
    before = len(reader.faults)
    options = comparison_options(recipe, reader)
    if options is None or len(reader.faults) > before:
        return
    step = BASELINES[recipe.method].method.grid_step(options)
    for index, stage in enumerate(recipe.stages):
        if stage.grid_px % step:
            reader.fault(f"stages[{index}].grid_px", f"must be a multiple of {step} for {recipe.method}")


def _check_tables(reader: TableReader, recipe: Recipe) -> None:
    """A comparison method brings its own networks and losses."""
    given = {
        "generator": bool(recipe.generator),
        "discriminator": recipe.discriminator != DiscriminatorRecipe(),
        "loss": recipe.loss != LossRecipe(),
        "run.compile": recipe.run.compile,
    }
    for key, found in given.items():
        if found:
            reader.fault(key, f"belongs to jmmda; what {recipe.method} may vary stands in [options]")
    for index, stage in enumerate(recipe.stages):
        for name in ("adversarial", "loss"):
            if getattr(stage, name):
                reader.fault(f"stages[{index}].{name}", f"belongs to jmmda; {recipe.method} has its own losses")
