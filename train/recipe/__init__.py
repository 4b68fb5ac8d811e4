"""Training recipes: strict TOML into frozen dataclasses; every fault names file, line, key and reason.

A recipe says everything that decides a trained network except the machine it ran on: data, input, network,
augmentation, losses, optimiser and stages. An unknown key is an error, because a misspelt key that is silently ignored
costs an hour of training.
"""

from train.recipe.checks import channel_values, contract_of, discriminator_settings, generator_settings, stage_loss
from train.recipe.faults import Fault, RecipeError
from train.recipe.loading import load_recipe, parse_recipe
from train.recipe.tables import (
    CENTRE_NAMES,
    JMMDA,
    AugmentRecipe,
    DataRecipe,
    DiscriminatorRecipe,
    InputRecipe,
    LogRecipe,
    LossRecipe,
    OptimiserRecipe,
    Recipe,
    RuntimeRecipe,
    StageRecipe,
)

__all__ = [
    "CENTRE_NAMES",
    "JMMDA",
    "AugmentRecipe",
    "DataRecipe",
    "DiscriminatorRecipe",
    "Fault",
    "InputRecipe",
    "LogRecipe",
    "LossRecipe",
    "OptimiserRecipe",
    "Recipe",
    "RecipeError",
    "RuntimeRecipe",
    "StageRecipe",
    "channel_values",
    "contract_of",
    "discriminator_settings",
    "generator_settings",
    "load_recipe",
    "parse_recipe",
    "stage_loss",
]
