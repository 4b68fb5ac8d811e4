"""Reads a recipe file and checks all of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from train.recipe.checks import complete
from train.recipe.faults import Fault, RecipeError
from train.recipe.lines import line_numbers
from train.recipe.reader import TableReader
from train.recipe.tables import Recipe


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    RecipeError
        With every fault of the file: unknown key, missing key, wrong type, value out of range, contradiction, or
        broken TOML.
    OSError
        When the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Fault(str(path), 1, "(file)", f"not UTF-8: {error.reason}")]) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        line = int(where.group(1)) if where else text.count("\n") + 1
        raise RecipeError([Fault(str(path), line, "(file)", f"not TOML: {error}")]) from error
    return parse_recipe(values, str(path), text)


def parse_recipe(values: dict[str, Any], file: str, text: str = "") -> Recipe:
    """Build a recipe from plain values.

    Parameters
    ----------
    values : dict[str, Any]
        As `tomllib` or `Recipe.to_json` gives them.
    file, text : str
        Name and text of the file, for the places of faults.

    Raises
    ------
    RecipeError
        With every fault found.
    """
    reader = TableReader(file, line_numbers(text))
    recipe = reader.table(Recipe, values, "")
    if isinstance(recipe, Recipe):
        recipe = complete(reader, recipe)
    if not isinstance(recipe, Recipe) or reader.faults:
        raise RecipeError(reader.faults)
    return recipe
