"""``train segmenter``: the network that judges lesions in synthetic DWI and serves the ``seg`` perceptual loss."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from train.commands.border import fail, read_recipe

EPILOG = "Example: `jmmda-node train segmenter config/train/plus.toml --out segmenter.safetensors`"


def segmenter(
    recipe: Annotated[Path, typer.Argument(help="Recipe that names the training volumes.")],
    out: Annotated[Path, typer.Option(help="Weights to write (safetensors); the card goes beside them (.json).")],
    cache: Annotated[Path | None, typer.Option(help="Where phantom volumes are kept, or a prepared folder.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of 8 slices.")] = 600,
    max_minutes: Annotated[float, typer.Option(min=0.01, help="Stop after this time at the latest.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and choices.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train a small U-Net to find lesion and brain on the measured DWI of the training split."""
    from train.data.cache import CacheError
    from train.devices import choose_device
    from train.evaluate import DEFAULT_CACHE, prepared_folder
    from train.evaluation.cases import training_cases
    from train.recipe import contract_of
    from train.runlog import progress_bar
    from train.segmenter import SegmenterError, save_segmenter, train_segmenter, with_dice
    from train.state import TrainingError

    wanted = read_recipe(recipe)
    contract = contract_of(wanted)
    root = cache or prepared_folder(wanted) or DEFAULT_CACHE
    try:
        cases = training_cases(wanted.data, contract, root)
        held_out = [case for case in training_cases(wanted.data, contract, root, "validation") if case.has_lesion_label]
        with progress_bar("segmenter", show=not as_json) as bar:
            network = train_segmenter(
                cases,
                contract,
                steps=steps,
                max_minutes=max_minutes,
                seed=seed,
                device=choose_device(device),
                progress=lambda done, total: bar.update(done, total, "segmenter"),
            )
        card = save_segmenter(with_dice(network, held_out) if held_out else network, out)
    except (SegmenterError, CacheError) as error:
        fail(error.reason)
    except TrainingError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps(asdict(card), indent=1))
        return
    dice = ", ".join(f"{name} {value:.3f}" for name, value in card.dice.items()) or "not measured"
    Console().print(
        f"segmenter in {escape(str(out))}: {card.source}, {card.n_cases} cases, {card.steps} steps in "
        f"{card.seconds:.0f} s; Dice on held-out measured DWI: {dice}",
        soft_wrap=True,
    )
