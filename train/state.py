"""State of a training run on disk: what must survive a kill for the next loss to be the same."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from train.recipe import Recipe, StageRecipe

CHECKPOINT_NAME = "checkpoint.pt"
BEST_NAME = "best.pt"
_FORMAT = 2
#: What may change between a run and its continuation, because it does not decide what is learnt.
_FREE_KEYS = ("max_minutes", "log", "description", "run")


class TrainingError(RuntimeError):
    """Raised when a run cannot start or go on; ``code`` names the kind, ``reason`` says it in words.

    Codes: ``device``, ``fabric``, ``run_exists``, ``checkpoint``, ``recipe``, ``other_recipe``, ``not_finite``,
    ``data``, ``method``.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class HasState(Protocol):
    """A network, an optimiser, or anything else that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """State as tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:  # noqa: ANN401  (torch returns several things)
        """Take a state over in place."""


@dataclass(slots=True)
class Position:
    """Where a run stands.

    Attributes
    ----------
    stage, step : int
        Index of the stage and steps done in it.
    total : int
        Steps done in all stages.
    skipped, skipped_in_a_row : int
        Steps whose loss or gradient was not finite and that changed nothing.
    elapsed_s, stage_started_s : float
        Seconds of training so far, over all resumes, and what they were when the stage began.
    waited_s : float
        Seconds of those that were spent waiting for data.
    best_psnr_db, best_step, best_stage : float, int, int
        Best validation of the newest stage that was validated, where it was, and that stage.
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    elapsed_s: float = 0.0
    stage_started_s: float = 0.0
    waited_s: float = 0.0
    best_psnr_db: float = float("-inf")
    best_step: int = -1
    best_stage: int = -1


def stage_of(recipe: Recipe, position: Position) -> StageRecipe | None:
    """Stage a run is in, or None when all are done."""
    return recipe.stages[position.stage] if position.stage < len(recipe.stages) else None


def save_checkpoint(folder: Path, recipe: Recipe, position: Position, parts: Mapping[str, HasState]) -> Path:
    """Write ``checkpoint.pt`` of a run atomically: a kill leaves the old or the new one, never a part."""
    values = {
        "format": _FORMAT,
        "recipe": recipe.to_json(),
        "position": asdict(position),
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    return save_atomically(values, folder / CHECKPOINT_NAME)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Plain values of a run's checkpoint, on the CPU.

    Raises
    ------
    FileNotFoundError
        When the run has no checkpoint.
    TrainingError
        ``checkpoint``: the file is damaged, or of another version of the program.
    """
    path = folder / CHECKPOINT_NAME
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError("checkpoint", f"{path} is damaged; start a new run folder") from error
    if values.get("format") != _FORMAT:
        raise TrainingError("checkpoint", f"{path} is not of format {_FORMAT}, the one known here")
    return values


def apply_checkpoint(values: dict[str, Any], recipe: Recipe, parts: Mapping[str, HasState]) -> Position:
    """Restore networks and optimisers in place and return the position.

    Raises
    ------
    TrainingError
        ``other_recipe``: only the time limit, the log settings and how the machine computes may differ;
        ``checkpoint``: it lacks a part, or a part does not fit.
    """
    _check_recipe(_decisive(values["recipe"]), _decisive(recipe.to_json()))
    if lacking := [name for name in parts if name not in values["parts"]]:
        raise TrainingError(
            "checkpoint",
            f"the checkpoint lacks {', '.join(lacking)}: it is that of a finished experiment, which keeps the weights "
            "alone, or of another version of the program; start a new run folder",
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(values["parts"][name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(
            "checkpoint",
            "the checkpoint does not fit the networks and optimisers of this version of the program; "
            "go on with the version that wrote it, or start a new run folder",
        ) from error
    known = {item.name for item in fields(Position)}
    return Position(**{name: value for name, value in values["position"].items() if name in known})


def _check_recipe(kept: dict[str, Any], given: dict[str, Any]) -> None:
    """Compare the recipe of a checkpoint with the one that is to go on; what differs is named."""
    ours, theirs = dict(_flat(given)), dict(_flat(kept))
    changed = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
    newer, older = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if changed:
        raise TrainingError(
            "other_recipe",
            f"the checkpoint was made from another recipe, which differs in {_named([*changed, *newer, *older])}; "
            "go on with its own recipe (recipe.json in the run folder), or start a new run folder",
        )
    if newer or older:
        words = [f"does not know {_named(newer)}"] if newer else []
        words += [f"has {_named(older)}, which is not known here"] if older else []
        raise TrainingError(
            "other_recipe",
            f"the checkpoint was made by another version of the program: its recipe {' and '.join(words)}; "
            "go on with the version that wrote it, or start a new run folder",
        )


def _named(keys: Sequence[str], most: int = 4) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{', '.join(keys[:most])}{more}"


def _flat(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys that every recipe of a version has, and their values.

    What a recipe may leave out (volumes a centre, settings of the generator, weights of a stage) is one value.
    """
    for name, value in recipe.items():
        if name == "stages":
            yield name, len(value)
            yield from ((f"stages[{n}].{key}", item) for n, stage in enumerate(value) for key, item in stage.items())
        elif isinstance(value, Mapping) and name not in ("generator", "options"):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield name, value


def _decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.items() if key not in _FREE_KEYS}
    kept["data"] = {key: value for key, value in recipe["data"].items() if key not in ("workers", "folder")}
    return kept


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Generator weights a run stands for, on the CPU: the average at its newest checkpoint, or that of the best
    validation when its recipe says ``selection = "best"``.

    Raises
    ------
    FileNotFoundError
        When the run has no checkpoint.
    TrainingError
        ``checkpoint``: see `read_checkpoint`.
    """  # noqa: D205  (one sentence)
    values = read_checkpoint(folder)
    wants_best = values["recipe"]["log"].get("selection") == "best"
    if wants_best and (folder / BEST_NAME).exists():
        best: dict[str, Any] = torch.load(folder / BEST_NAME, map_location="cpu", weights_only=True)
        # A run that was killed between the two files may have a best one that its checkpoint does not know.
        if best["step"] <= values["position"]["total"]:
            chosen: dict[str, Tensor] = best["weights"]
            return chosen
    weights: dict[str, Tensor] = values["parts"]["average"]
    return weights


def save_best(folder: Path, weights: dict[str, Any], step: int, psnr_db: float) -> Path:
    """Keep the averaged weights of the best validation so far."""
    return save_atomically({"step": step, "psnr_db": psnr_db, "weights": weights}, folder / BEST_NAME)


def save_stage_weights(folder: Path, name: str, weights: dict[str, Any]) -> Path:
    """Keep the averaged weights at the end of a stage as ``stage-NAME.pt``, to compare stages later."""
    return save_atomically(weights, folder / f"stage-{name}.pt")


def load_stage_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Averaged weights at the end of a stage.

    Raises
    ------
    FileNotFoundError
        When the run has not finished that stage.
    """
    weights: dict[str, Tensor] = torch.load(folder / f"stage-{name}.pt", map_location="cpu", weights_only=True)
    return weights


def save_atomically(values: object, path: Path) -> Path:
    """Write with `torch.save` beside the final name, flush to the disk, then rename."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        torch.save(values, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    return path
