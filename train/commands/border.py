"""What the commands of the training side share: how they end, and how a faulty recipe is told.

Exit codes: 0 done, 1 failed, 2 wrong usage or a faulty recipe, 3 refused with a reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from train.recipe import Recipe

FAILED, USAGE, REFUSED = 1, 2, 3


def fail(reason: object, code: int = FAILED) -> NoReturn:
    """Print a reason and end with an exit code.

    Raises
    ------
    typer.Exit
        Always.
    """
    Console(stderr=True).print(f"[red]failed:[/red] {escape(str(reason))}", soft_wrap=True)
    raise typer.Exit(code)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its faults are printed one a line as ``FILE:LINE: key: reason``.

    Raises
    ------
    typer.Exit
        With `USAGE` when the recipe cannot be used.
    """
    from train.recipe import RecipeError, load_recipe

    try:
        return load_recipe(path)
    except RecipeError as error:
        for fault in error.faults:
            Console(stderr=True).print(escape(str(fault)), soft_wrap=True, highlight=False)
        raise typer.Exit(USAGE) from error
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE)
