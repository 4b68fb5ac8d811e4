"""Contradictions within a recipe that no single key shows, and what is derived from several keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.recipe.comparison import check_comparison
from train.recipe.faults import unknown_word
from train.recipe.reader import TableReader
from train.recipe.tables import JMMDA, InputRecipe, LossRecipe, Recipe, StageRecipe

if TYPE_CHECKING:
    from jmmda_model.imaging.contract import PreprocessingContract
    from jmmda_model.network.settings import DiscriminatorSettings, GeneratorSettings


def contract_of(recipe: Recipe) -> PreprocessingContract:
    """Preprocessing contract that a recipe's ``[input]`` asks for; the rest of the contract keeps its defaults.

    Raises
    ------
    jmmda_model.imaging.errors.ImagingError
        For windows or mask channels that no contract can have.
    """
    return _contract(recipe.input)


def _contract(wanted: InputRecipe) -> PreprocessingContract:
    from jmmda_model.imaging.contract import PreprocessingContract

    default = PreprocessingContract(**channel_values(wanted))
    if wanted.grid_px is None:
        return default
    spacing_mm = default.grid_px * default.grid_spacing_mm / wanted.grid_px
    return dataclasses.replace(default, grid_px=wanted.grid_px, grid_spacing_mm=spacing_mm)


def channel_values(wanted: InputRecipe) -> dict[str, Any]:
    """Fields of a contract that decide the channels, from ``[input]``."""
    names = (item.name for item in dataclasses.fields(InputRecipe) if item.name != "grid_px")
    return {name: getattr(wanted, name) for name in names}


def generator_settings(generator: Mapping[str, Any]) -> GeneratorSettings:
    """`GeneratorSettings` of a recipe's ``[generator]`` table: a ``size`` and changes to it.

    Raises
    ------
    jmmda_model.network.settings.SettingsValueError
        For values no network can be built from.
    """
    from jmmda_model.network.settings import GeneratorSettings

    changes = {key: value for key, value in generator.items() if key != "size"}
    return GeneratorSettings.for_size(str(generator.get("size", "compact")), **changes)  # type: ignore[arg-type]


def discriminator_settings(recipe: Recipe) -> DiscriminatorSettings:
    """Settings of the discriminator: it sees every input slice, the image, and with ``mask`` the mask channels."""
    from jmmda_model.network.settings import DiscriminatorSettings

    generator, size = generator_settings(recipe.generator), recipe.discriminator
    return DiscriminatorSettings(
        in_channels=generator.in_channels + 1 + (generator.mask_channels if size.mask else 0),
        ndf=size.ndf,
        n_layers=size.n_layers,
        num_scales=size.num_scales,
        spectral_norm=size.spectral_norm,
    )


def stage_loss(recipe: Recipe, stage: StageRecipe) -> LossRecipe:
    """The recipe's ``[loss]`` with the weights that a stage sets otherwise."""
    return dataclasses.replace(recipe.loss, **stage.loss)  # type: ignore[arg-type]


def complete(reader: TableReader, recipe: Recipe) -> Recipe:
    """Check a recipe whose single values are right, and derive the channels of the generator from ``[input]``."""
    from jmmda_model.imaging.errors import ImagingError

    _check_data(reader, recipe)
    if recipe.method != JMMDA:
        _check_lengths(reader, recipe)
        check_comparison(reader, recipe)
        return recipe
    _check_jmmda_tables(reader, recipe)
    _check_loss(reader, recipe)
    if not _stage_weights_are_known(reader, recipe):
        return recipe
    _check_stages(reader, recipe)
    try:
        contract = contract_of(recipe)
    except ImagingError as error:
        reader.fault("input", error.reason)
        return recipe
    recipe = _derive_channels(reader, recipe, contract)
    _check_generator(reader, recipe, contract)
    return recipe


def _check_jmmda_tables(reader: TableReader, recipe: Recipe) -> None:
    if not recipe.generator:
        reader.fault("generator", "is missing")
    if recipe.options:
        reader.fault("options", "belongs to the comparison methods; jmmda has [generator], [discriminator] and [loss]")


def _derive_channels(reader: TableReader, recipe: Recipe, contract: PreprocessingContract) -> Recipe:
    channels = {"in_channels": contract.ct_channel_count, "mask_channels": len(contract.mask_channels)}
    for name, count in channels.items():
        if recipe.generator.get(name, count) != count:
            reader.fault(f"generator.{name}", f"[input] makes {count} channels; leave this key out")
    return dataclasses.replace(recipe, generator={**recipe.generator, **channels})


def _check_generator(reader: TableReader, recipe: Recipe, contract: PreprocessingContract) -> None:
    from jmmda_model.network.settings import GeneratorSettings

    known = {item.name for item in dataclasses.fields(GeneratorSettings)}
    unknown = [key for key in recipe.generator if key not in known]
    for key in unknown:
        reader.fault(f"generator.{key}", f"unknown key; {unknown_word(key, known)}")
    if unknown:
        return
    try:
        settings = generator_settings(recipe.generator)
    except (TypeError, ValueError) as error:
        reader.fault("generator", str(error))
        return
    if recipe.loss.heteroscedastic != bool(recipe.generator.get("heteroscedastic", False)):
        reader.fault("loss.heteroscedastic", "must be set in [generator] and [loss] alike: the head needs its loss")
    step = 2**settings.n_down
    for index, stage in enumerate(recipe.stages):
        if contract.grid_px % stage.grid_px:
            reader.fault(f"stages[{index}].grid_px", f"must divide the grid of {contract.grid_px} pixels")
        elif stage.grid_px % step:
            reader.fault(f"stages[{index}].grid_px", f"must be a multiple of {step} for this generator")


def _check_data(reader: TableReader, recipe: Recipe) -> None:
    data = recipe.data
    if data.source == "prepared":
        if data.folder is None:
            reader.fault("data.folder", "is missing: source = prepared needs the folder that `train prepare` wrote")
        if recipe.input.grid_px is not None:
            reader.fault("input.grid_px", "belongs to source = phantom; a prepared folder brings its own grid")
        for split in ("train", "validation", "test"):
            if getattr(data, split):
                reader.fault(f"data.{split}", "counts phantom volumes; a prepared folder brings its own splits")
        return
    for name in ("folder", "centres_train", "centres_test"):
        if getattr(data, name):
            reader.fault(f"data.{name}", "belongs to source = prepared")
    for split in ("train", "validation"):
        if not sum(getattr(data, split).values()):
            reader.fault(f"data.{split}", "is missing" if not getattr(data, split) else "must name some volumes")


#: Terms that steer the generator in a stage without a discriminator.
_PLAIN_TERMS = (
    "regional_weight",
    "wavelet_weight",
    "ms_ssim_weight",
    "gradient_difference_weight",
    "lesion_contrast_weight",
)


def _has_plain_term(loss: LossRecipe) -> bool:
    pixel = loss.heteroscedastic or loss.pixel != "none"
    perceptual = loss.perceptual in ("seg", "vgg") and loss.perceptual_weight > 0
    return (pixel and loss.pixel_weight > 0) or perceptual or any(getattr(loss, name) > 0 for name in _PLAIN_TERMS)


def _check_loss(reader: TableReader, recipe: Recipe) -> None:
    loss = recipe.loss
    needs_file = loss.perceptual in ("seg", "vgg")
    if needs_file and loss.perceptual_file is None:
        reader.fault("loss.perceptual_file", f"is missing: perceptual = {loss.perceptual} reads its network from it")
    elif needs_file and not Path(str(loss.perceptual_file)).is_file():
        reader.fault("loss.perceptual_file", "no such file")
    if not needs_file and loss.perceptual_file is not None:
        reader.fault("loss.perceptual_file", "is only read with perceptual = seg or vgg")
    if loss.pixel == "adaptive" and not (0.001 < loss.alpha < 1.999 and loss.scale_c > 0.02):
        reader.fault(
            "loss.alpha", "the adaptive loss starts at an alpha between 0.001 and 1.999 and a scale_c above 0.02"
        )
    if loss.perceptual == "disc" and loss.feature_matching_weight > 0:
        reader.fault("loss.feature_matching_weight", "must be 0 with perceptual = disc: they are one and the same term")
    if (loss.perceptual == "none") != (loss.perceptual_weight == 0):
        reader.fault("loss.perceptual_weight", "must be above 0 with a perceptual term, and 0 without one")


def _stage_weights_are_known(reader: TableReader, recipe: Recipe) -> bool:
    weights = {item.name for item in dataclasses.fields(LossRecipe) if item.name.endswith("_weight")}
    before = len(reader.faults)
    for index, stage in enumerate(recipe.stages):
        for key, value in stage.loss.items():
            where = f"stages[{index}].loss.{key}"
            if key not in weights:
                reader.fault(where, f"is no weight of [loss]; {unknown_word(key, weights)}")
            elif not _is_weight(value):
                reader.fault(where, "must be a finite number of at least 0")
    return len(reader.faults) == before


def _check_scales(reader: TableReader, stage: StageRecipe, loss: LossRecipe, key: str) -> None:
    """Terms that halve the image need one that is large enough."""
    if loss.wavelet_weight > 0 and stage.grid_px % 2**loss.wavelet_levels:
        reader.fault(f"{key}.grid_px", f"must be a multiple of {2**loss.wavelet_levels} for the wavelet term")
    if loss.regional_weight > 0 and stage.grid_px < 2 * loss.regional_blocks:
        reader.fault(f"{key}.grid_px", f"must be at least {2 * loss.regional_blocks} for the regional term")
    if loss.ms_ssim_weight > 0:
        from train.objectives import smallest_ms_ssim_side  # torch, so only where it is needed

        if stage.grid_px < (least := smallest_ms_ssim_side()):
            reader.fault(f"{key}.grid_px", f"must be at least {least} for the MS-SSIM term")


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < math.inf


def _check_stages(reader: TableReader, recipe: Recipe) -> None:
    _check_lengths(reader, recipe)
    for index, stage in enumerate(recipe.stages):
        key = f"stages[{index}]"
        _check_scales(reader, stage, stage_loss(recipe, stage), key)
        if not stage.adversarial and not _has_plain_term(stage_loss(recipe, stage)):
            reader.fault(key, "no term of [loss] steers a stage that is not adversarial")
    if recipe.loss.perceptual == "disc" and not any(stage.adversarial for stage in recipe.stages):
        reader.fault("loss.perceptual", "disc needs an adversarial stage: it uses the discriminator's features")


def _check_lengths(reader: TableReader, recipe: Recipe) -> None:
    names = [stage.name for stage in recipe.stages]
    for index, stage in enumerate(recipe.stages):
        key = f"stages[{index}]"
        if stage.name in names[:index]:
            reader.fault(f"{key}.name", f"{stage.name} is used twice")
        if (stage.steps is None) == (stage.epochs is None):
            reader.fault(f"{key}.steps", "is missing" if stage.steps is None else "and epochs exclude each other")
    total = sum(stage.time_share for stage in recipe.stages)
    if recipe.max_minutes is not None and total > 1.0 + 1e-6:
        reader.fault("stages[0].time_share", f"the shares of all stages add up to {total:g}, more than 1")
