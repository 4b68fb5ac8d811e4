"""Methods of image synthesis that the trainer can train; each brings its networks, optimisers and its one step."""

from __future__ import annotations

from collections.abc import Callable

from train.devices import Devices
from train.guard import StepGuard
from train.methods.base import Method, Moment, StepReport
from train.methods.jmmda import JmmdaMethod
from train.recipe import Recipe

_METHODS: dict[str, Callable[[Recipe, Devices, StepGuard], Method]] = {"jmmda": JmmdaMethod}


def build_method(recipe: Recipe, devices: Devices, guard: StepGuard) -> Method:
    """Build the method a recipe names, with fresh weights drawn from the recipe's seed."""
    return _METHODS[recipe.method](recipe, devices, guard)


__all__ = ["JmmdaMethod", "Method", "Moment", "StepReport", "build_method"]
