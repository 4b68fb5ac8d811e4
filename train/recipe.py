"""Training recipes: strict TOML into frozen dataclasses; every fault names file, line, key and reason.

A recipe says everything that decides a trained network except the machine it ran on: data, network, augmentation,
losses, optimiser and stages. An unknown key is an error, because a misspelt key that is silently ignored costs an
hour of training. Only the standard library is used, so that recipes load where only torch, NumPy and SciPy exist.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

#: Centres of the phantom that a recipe may name.
CENTRE_NAMES = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a recipe file; prints as ``FILE:LINE: key: reason``."""

    file: str
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.reason}"


class RecipeError(ValueError):
    """Raised when a recipe file is not usable; `faults` lists everything found wrong in one go."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults: tuple[Fault, ...] = tuple(faults)


def _at_least(low: float, high: float | None = None) -> dict[str, Any]:
    return {"low": low, "high": high}


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Phantom volumes a split: centre -> number. One volume is one patient, so splits cannot share patients."""

    train: Mapping[str, int]
    validation: Mapping[str, int]
    test: Mapping[str, int]
    matrix: int = field(default=256, metadata=_at_least(32))
    fov_mm: float = field(default=230.4, metadata=_at_least(1.0))
    n_slices: int = field(default=24, metadata=_at_least(3))
    slice_mm: float = field(default=5.0, metadata=_at_least(0.5, 8.0))
    workers: int = field(default=2, metadata=_at_least(1))


@dataclass(frozen=True, slots=True)
class AugmentRecipe:
    """Random changes of a slice; CT, target, mask and lesion move alike. There is no vertical flip."""

    probability: float = field(default=0.5, metadata=_at_least(0.0, 1.0))
    flip: bool = True
    rotation_deg: float = field(default=8.0, metadata=_at_least(0.0, 45.0))
    scale: float = field(default=0.08, metadata=_at_least(0.0, 0.5))
    shift: float = field(default=0.03, metadata=_at_least(0.0, 0.3))
    noise_hu: float = field(default=2.0, metadata=_at_least(0.0))
    offset_hu: float = field(default=1.5, metadata=_at_least(0.0))


@dataclass(frozen=True, slots=True)
class LossRecipe:
    """Weights of the terms. ``scale_c`` is c of the robust loss: below 0.5, uncertain lesions become normal brain."""

    pixel: Literal["squared", "robust"] = "squared"
    alpha: float = 1.0
    scale_c: float = field(default=0.5, metadata=_at_least(0.02))
    pixel_weight: float = field(default=10.0, metadata=_at_least(0.0))
    lesion_weight: float = field(default=4.0, metadata=_at_least(0.0))
    background_weight: float = field(default=0.02, metadata=_at_least(0.0))
    gan_weight: float = field(default=0.5, metadata=_at_least(0.0))
    feature_matching_weight: float = field(default=2.0, metadata=_at_least(0.0))


@dataclass(frozen=True, slots=True)
class OptimiserRecipe:
    """Adam for both networks, gradient clip of the generator, moving average of its weights."""

    beta1: float = field(default=0.5, metadata=_at_least(0.0, 0.999))
    beta2: float = field(default=0.999, metadata=_at_least(0.0, 0.99999))
    discriminator_learning_rate: float = field(default=1e-4, metadata=_at_least(0.0))
    clip_norm: float = field(default=5.0, metadata=_at_least(1e-6))
    ema_decay: float = field(default=0.999, metadata=_at_least(0.0, 0.99999))


@dataclass(frozen=True, slots=True)
class DiscriminatorRecipe:
    """Size of the PatchGAN discriminator (our choice: smaller than pix2pixHD's, which has 64 first filters)."""

    ndf: int = field(default=24, metadata=_at_least(1))
    n_layers: int = field(default=3, metadata=_at_least(1, 6))
    num_scales: int = field(default=2, metadata=_at_least(1, 4))
    spectral_norm: bool = False


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One stage: a resolution, a number of steps, and whether the discriminator takes part.

    A stage ends after ``steps``, or when the ``time_share`` of the stages up to it of the run's time limit is used
    up; the learning rate falls with whichever of the two is further on, so that a run cut by time still ends at a
    small rate. ``bf16`` is autocast in training only (weights, losses and the moving average stay fp32); the
    precision of inference is decided elsewhere.
    """

    name: str
    grid_px: int = field(metadata=_at_least(8))
    steps: int = field(metadata=_at_least(1))
    batch: int = field(default=4, metadata=_at_least(1))
    learning_rate: float = field(default=2e-4, metadata=_at_least(0.0))
    final_rate: float = field(default=0.05, metadata=_at_least(0.0, 1.0))
    warm_up_steps: int = field(default=0, metadata=_at_least(0))
    time_share: float = field(default=1.0, metadata=_at_least(0.0, 1.0))
    adversarial: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True, slots=True)
class LogRecipe:
    """How often (in steps) the run log, the validation figures, the pictures and the checkpoint are written."""

    every: int = field(default=20, metadata=_at_least(1))
    validate_every: int = field(default=200, metadata=_at_least(1))
    validation_slices: int = field(default=48, metadata=_at_least(1))
    checkpoint_every: int = field(default=100, metadata=_at_least(1))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a trained network; ``generator`` is a size and changes to it (`GeneratorSettings`)."""

    name: str
    description: str
    data: DataRecipe
    generator: Mapping[str, Any]
    stages: tuple[StageRecipe, ...]
    seed: int = field(default=0, metadata=_at_least(0))
    max_minutes: float | None = field(default=None, metadata=_at_least(0.0))
    discriminator: DiscriminatorRecipe = field(default_factory=DiscriminatorRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    log: LogRecipe = field(default_factory=LogRecipe)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to ``recipe.json`` of a run."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from `to_json`.

        Raises
        ------
        RecipeError
            When a value no longer fits this version of the program.
        """
        return _parse(dict(values), "recipe.json", "")


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    RecipeError
        With every fault of the file: unknown key, missing key, wrong type, value out of range, or broken TOML.
    """
    text = path.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        line = int(where.group(1)) if where else text.count("\n") + 1
        raise RecipeError([Fault(str(path), line, "(file)", f"not TOML: {error}")]) from error
    return _parse(values, str(path), text)


def _parse(values: dict[str, Any], file: str, text: str) -> Recipe:
    reader = _Reader(file, _line_numbers(text))
    recipe = reader.table(Recipe, values, "")
    if isinstance(recipe, Recipe):
        reader.check_generator(recipe.generator)
        reader.check_stages(recipe)
    if reader.faults:
        raise RecipeError(reader.faults)
    return recipe  # type: ignore[no-any-return]


_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-]+)\s*\]\]?")
_KEY = re.compile(r"^\s*([\w.\-]+)\s*=")


def _line_numbers(text: str) -> dict[str, int]:
    """Map dotted keys (``stages[1].steps``) to the line that sets them."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            prefix = header.group(2)
            if header.group(1) == "[[":
                index = counts.get(prefix, 0)
                counts[prefix] = index + 1
                prefix = f"{prefix}[{index}]"
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            dotted = f"{prefix}.{key.group(1)}" if prefix else key.group(1)
            lines.setdefault(dotted, number)
    return lines


class _Reader:
    """Turns plain TOML values into dataclasses and collects the faults on the way."""

    def __init__(self, file: str, lines: Mapping[str, int]) -> None:
        self.file = file
        self.lines = lines
        self.faults: list[Fault] = []

    def fault(self, key: str, reason: str) -> None:
        where = key
        while where and where not in self.lines:  # a missing key is reported at its table
            where = where.rpartition(".")[0]
        self.faults.append(Fault(self.file, self.lines.get(where, 1), key or "(file)", reason))

    def table(self, cls: type, values: object, prefix: str) -> Any:  # noqa: ANN401  (a dataclass of type cls, or None)
        if not isinstance(values, Mapping):
            self.fault(prefix, "must be a table")
            return None
        hints = get_type_hints(cls)
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                self.fault(_join(prefix, key), f"unknown key; known here: {', '.join(sorted(fields))}")
        found: dict[str, Any] = {}
        before = len(self.faults)
        for name, item in fields.items():
            key = _join(prefix, name)
            if name in values:
                found[name] = self.value(hints[name], values[name], key, item.metadata)
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                self.fault(key, "is missing")
        if len(self.faults) > before or len(found) < len([k for k in values if k in fields]):
            return None
        return cls(**found)

    def value(self, kind: Any, value: object, key: str, limits: Mapping[str, Any]) -> object:  # noqa: ANN401
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            if value is None:
                return None
            kind = next(arg for arg in get_args(kind) if arg is not type(None))
            origin = get_origin(kind)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self.table(kind, value, key)
        if origin is tuple:
            return self.rows(get_args(kind)[0], value, key)
        if origin is Literal:
            if value not in get_args(kind):
                self.fault(key, f"must be one of {', '.join(map(str, get_args(kind)))}")
            return value
        if origin is not None and issubclass(origin, Mapping):
            return self.counts(value, key) if get_args(kind)[1] is int else self.plain_table(value, key)
        return self.scalar(kind, value, key, limits)

    def rows(self, kind: type, value: object, key: str) -> tuple[object, ...]:
        if not isinstance(value, list) or not value:
            self.fault(key, f"must be one or more [[{key}]] tables")
            return ()
        return tuple(self.table(kind, row, f"{key}[{index}]") for index, row in enumerate(value))

    def counts(self, value: object, key: str) -> dict[str, int]:
        if not isinstance(value, Mapping):
            self.fault(key, "must be a table of centre = number of volumes")
            return {}
        for centre, count in value.items():
            if centre not in CENTRE_NAMES:
                self.fault(key, f"unknown centre {centre}; known: {', '.join(CENTRE_NAMES)}")
            elif isinstance(count, bool) or not isinstance(count, int) or count < 0:
                self.fault(key, f"number of volumes of centre {centre} must be a whole number >= 0")
        return dict(value)

    def plain_table(self, value: object, key: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.fault(key, "must be a table")
            return {}
        return dict(value)

    def scalar(self, kind: Any, value: object, key: str, limits: Mapping[str, Any]) -> object:  # noqa: ANN401
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fault(key, f"must be of type {kind.__name__}")
            return value
        low, high = limits.get("low"), limits.get("high")
        if isinstance(value, int | float) and low is not None and value < low:
            self.fault(key, f"must be at least {low:g}")
        if isinstance(value, int | float) and high is not None and value > high:
            self.fault(key, f"must be at most {high:g}")
        return value

    def check_generator(self, generator: Mapping[str, Any]) -> None:
        from jmmda_model.network.settings import GeneratorSettings

        known = {item.name for item in dataclasses.fields(GeneratorSettings)}
        unknown = [key for key in generator if key not in known]
        for key in unknown:
            self.fault(f"generator.{key}", f"unknown key; known here: {', '.join(sorted(known))}")
        if unknown:
            return
        try:
            generator_settings(generator)
        except (TypeError, ValueError) as error:
            self.fault("generator", str(error))

    def check_stages(self, recipe: Recipe) -> None:
        names = [stage.name for stage in recipe.stages]
        for index, name in enumerate(names):
            if name in names[:index]:
                self.fault(f"stages[{index}].name", f"{name} is used twice")
        total = sum(stage.time_share for stage in recipe.stages)
        if recipe.max_minutes is not None and total > 1.0 + 1e-6:
            self.fault("stages[0].time_share", f"the shares of all stages add up to {total:g}, more than 1")


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def generator_settings(generator: Mapping[str, Any]) -> Any:  # noqa: ANN401  (GeneratorSettings, imported lazily)
    """`GeneratorSettings` of a recipe's ``[generator]`` table: a ``size`` and changes to it."""
    from jmmda_model.network.settings import GeneratorSettings

    changes = {key: value for key, value in generator.items() if key != "size"}
    return GeneratorSettings.for_size(str(generator.get("size", "compact")), **changes)  # type: ignore[arg-type]
