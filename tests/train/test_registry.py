"""Every comparison method in the trainer that JMMDA-GAN uses: learning, resuming, recipes, evaluation.

Covers what all methods share. What is particular to one is tested beside it in ``baselines/``. Leaves out several
processes (test_devices.py has one method of two networks) and CUDA (no device in CI).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_cases import CONTRACT, drawn_case

from jmmda_model.network.counting import count_saved_mib
from train.data.dataset import SliceDataset
from train.data.phantom_cache import build_cache, load_phantom_split
from train.devices import SingleDevice
from train.dryrun import OperationCounter, measure_step, plan_run, random_batch, translator_cost
from train.evaluate import open_subject
from train.export import export_run
from train.guard import StepGuard
from train.methods import Moment
from train.recipe import Recipe, RecipeError, contract_of, parse_recipe
from train.registry import (
    BASELINES,
    build_method,
    build_translator,
    channels_of,
    comparison_options,
    method_names,
    title_of,
    training_evaluations,
)
from train.state import CHECKPOINT_NAME, Position, TrainingError
from train.trainer import Trainer

GRID_PX = 32
#: Two small phantoms to train on and one to validate with.
PHANTOM = {
    "data": {
        "train": {"A": 2},
        "validation": {"A": 1},
        "matrix": 64,
        "fov_mm": 230.4,
        "n_slices": 8,
        "slice_mm": 8.0,
        "lesion_share": 0.0,
    },
    "input": {"grid_px": GRID_PX, "windows_hu": [[0.0, 80.0]], "mask_channels": ["brain"]},
}
#: Networks that answer once in a step of training and more often in a prediction.
SAMPLED = {"cddpm": 10, "bbdm": 10}
#: Terms that a method brings down in a few steps; an adversarial term may rise while both sides learn.
OWN_LOSSES = {
    "pix2pixhd": ("discriminator", "feature_matching"),
    "pix2pixhd_local": ("discriminator", "feature_matching"),
    "hisgan": ("l1", "refined_l1"),
    "hisgan_repo": ("l1", "refined_l1"),
    "argan": ("l1", "spectrum"),
    "argan_repo": ("l1",),
    "argan_shadow": ("l1",),
    "medgan_nie": ("mse",),
    "medgan_casnet": ("perceptual",),
    "multicycle_repo": ("l1",),
    "multicycle_paper": ("cycle", "paired"),
    "rescycle_repo": ("cycle_ct", "cycle_dwi"),
    "rescycle_paper": ("cycle_ct", "cycle_dwi", "distance"),
    "pix2pix": ("l1",),
    "unet_l1": ("l1",),
    "resunet_masked": ("masked_l1",),
    "resvit": ("l1",),
    "cddpm": ("denoising",),
    "bbdm": ("denoising",),
}
CPU = torch.device("cpu")


def recipe_of(name: str, *, steps: int = 6, **changes: object) -> Recipe:
    """A recipe of seconds: an eighth of the width, the depth that 32 pixels allow, the rates of the method."""
    entry = BASELINES[name]
    options = entry.method.adapted(dataclasses.replace(entry.options, width=0.125), GRID_PX)
    values: dict[str, object] = {
        "name": name,
        "description": "for tests",
        "method": name,
        "seed": 2,
        "data": {"train": {"A": 2}, "validation": {"A": 1}, "test": {"A": 1}},
        "input": {"windows_hu": [[0.0, 80.0]], "mask_channels": ["brain"]},
        "options": dataclasses.asdict(options),
        "augment": {"probability": 0.0, "flip": False, "noise_hu": 0.0, "offset_hu": 0.0},
        "optimiser": {"beta1": entry.schedule.beta1, "clip_norm": 0.0, "ema_decay": 0.0},
        "log": {
            "every": 1,
            "validate_every": 1000,
            "validation_slices": 2,
            "checkpoint_every": 3,
            "tensorboard": False,
        },
        "stages": [{"name": "all", "grid_px": GRID_PX, "steps": steps, "batch": 2, "learning_rate": 1e-3}],
    }
    return parse_recipe(values | changes, "test")


def trainer_of(recipe: Recipe, run: Path) -> Trainer:
    contract = dataclasses.replace(CONTRACT, windows_hu=((0.0, 80.0),), mask_channels=("brain",))
    training = SliceDataset([drawn_case(0), drawn_case(1)], contract)
    validation = SliceDataset([drawn_case(2, split="validation")], contract)
    run.mkdir(parents=True, exist_ok=True)
    return Trainer(recipe, run, training, validation, CPU)


def logged_losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("name", BASELINES)
def test_trains_is_evaluated_and_resumes_with_the_identical_next_loss(name: str, tmp_path: Path) -> None:
    whole = trainer_of(recipe_of(name), tmp_path / "whole")
    assert whole.fit().finished
    losses = logged_losses(tmp_path / "whole")
    assert len(losses) == 6
    assert np.isfinite(losses).all()

    cut = trainer_of(recipe_of(name), tmp_path / "cut")
    step, cut.method.step = cut.method.step, lambda batch, moment: stopping(cut, step, batch, moment)  # type: ignore[method-assign]
    assert not cut.fit().finished
    resumed = trainer_of(recipe_of(name), tmp_path / "cut")
    resumed.resume()
    assert resumed.position.total == 3
    assert resumed.fit().finished
    assert logged_losses(tmp_path / "cut") == losses

    network = build_translator(recipe_of(name))
    network.load_state_dict(resumed.method.evaluated_weights())
    ct, mask = torch.rand(1, 1, GRID_PX, GRID_PX) * 2.0 - 1.0, torch.ones(1, 1, GRID_PX, GRID_PX)
    with torch.no_grad():
        image = network.eval()(ct, mask)
    assert image.shape == (1, 1, GRID_PX, GRID_PX)
    assert torch.equal(image, resumed.method.predict(ct, mask))
    assert torch.equal(image, resumed.method.predict(ct, mask)), "a prediction must not depend on chance"


def stopping(trainer: Trainer, step: object, batch: object, moment: object) -> object:
    """The third step asks the loop to stop."""
    if moment.step == 2:  # type: ignore[attr-defined]
        trainer.stop()
    return step(batch, moment)  # type: ignore[operator]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[SliceDataset, SliceDataset]:
    """Slices of three small phantoms of centre A, on a grid of 32 pixels."""
    recipe = recipe_of("unet_l1", **PHANTOM)
    cache = build_cache(
        tmp_path_factory.mktemp("cache"), recipe.data, contract_of(recipe), splits=("train", "validation")
    )
    train, validation = (load_phantom_split(cache, recipe.data, split) for split in ("train", "validation"))
    return SliceDataset(train, contract_of(recipe)), SliceDataset(validation, contract_of(recipe))


@pytest.mark.parametrize("name", BASELINES)
def test_losses_fall_on_the_phantom(name: str, phantom: tuple[SliceDataset, SliceDataset], tmp_path: Path) -> None:
    trainer = Trainer(recipe_of(name, steps=24, **PHANTOM), tmp_path, *phantom, CPU)
    assert trainer.fit().finished
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    terms = [line["terms"] for line in lines if line["event"] == "step"]
    for term in OWN_LOSSES[name]:
        first, last = (sum(step[term] for step in part) / 6.0 for part in (terms[:6], terms[-6:]))
        assert last < first, f"{term}: {first:.4f} -> {last:.4f}"


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_that_is_not_finite_changes_no_weight(name: str) -> None:
    recipe = recipe_of(name)
    position = Position()
    method = build_method(recipe, SingleDevice(CPU), StepGuard(SingleDevice(CPU), position))
    method.start_stage(recipe.stages[0])
    contract = dataclasses.replace(CONTRACT, windows_hu=((0.0, 80.0),), mask_channels=("brain",))
    batch = SliceDataset([drawn_case(0)], contract).fixed_batch(np.array([0, 1]), GRID_PX)
    broken = dataclasses.replace(batch, target=torch.full_like(batch.target, float("nan")))
    before = {
        key: {name: value.clone() for name, value in net.named_parameters()} for key, net in method.networks().items()
    }
    method.step(broken, Moment(recipe.stages[0], 0, 1.0, logged=False))
    assert position.skipped == 1
    for key, network in method.networks().items():
        assert all(torch.equal(value, before[key][item]) for item, value in network.named_parameters()), key


@pytest.mark.parametrize("name", BASELINES)
def test_a_network_with_the_mask_sees_it(name: str) -> None:
    recipe = recipe_of(name)
    masked = dataclasses.replace(recipe, options={**recipe.options, "mask": True})
    torch.manual_seed(0)
    network = build_translator(masked).eval()
    for weight in network.parameters():
        if not weight.any():  # a last layer that starts at 0 would hide everything
            torch.nn.init.normal_(weight, 0.0, 0.1)
    ct = torch.rand(1, 1, GRID_PX, GRID_PX) * 2.0 - 1.0
    with torch.no_grad():
        one, other = network(ct, torch.ones_like(ct)), network(ct, torch.zeros_like(ct))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_can_be_measured_and_its_operations_counted(name: str) -> None:
    recipe = recipe_of(name)
    guard = StepGuard(SingleDevice(CPU), Position())
    seconds, gflop = measure_step(
        build_method(recipe, SingleDevice(CPU), guard), recipe, recipe.stages[0], CPU, steps=1
    )
    assert seconds > 0.0
    assert gflop > 2.0 * 3.0 * 0.9 * translator_cost(recipe, GRID_PX).gmac / SAMPLED.get(name, 1)


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_evaluates_the_network_as_often_as_memory_is_planned_for(name: str) -> None:
    """Slices that the core is given until its optimiser descends, which frees what was kept of them."""
    recipe = recipe_of(name)
    method = build_method(recipe, SingleDevice(CPU), StepGuard(SingleDevice(CPU), Position()))
    slices, descended, descend = [0], [], method.descend  # type: ignore[attr-defined]

    def count(module: object, given: tuple[torch.Tensor, ...], answer: object) -> None:
        slices[0] += len(given[0])

    def descending(which: str, terms: object) -> bool:
        if which == "generator":
            descended.append(slices[0])
            slices[0] = 0
        return descend(which, terms)  # type: ignore[no-any-return]

    method.networks()["generator"].core.register_forward_hook(count)  # type: ignore[union-attr]
    method.descend = descending  # type: ignore[attr-defined]
    batch = random_batch(channels_of(recipe), 4, GRID_PX, CPU)
    method.step(batch, Moment(recipe.stages[0], 0, 1.0, logged=False))
    assert set(descended) == {4 * training_evaluations(recipe)}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_samplers_memory_is_that_of_one_evaluation_and_its_operations_are_those_of_all(name: str) -> None:
    recipe = recipe_of(name)
    once = dataclasses.replace(recipe, options={**recipe.options, "sampling_steps": 1})
    ten, one = (translator_cost(each, GRID_PX) for each in (recipe, once))
    assert ten.gmac == pytest.approx(10.0 * one.gmac)
    assert ten.saved_mib == one.saved_mib

    method = build_method(recipe, SingleDevice(CPU), StepGuard(SingleDevice(CPU), Position()))
    run, kept = method.run, []  # type: ignore[attr-defined]

    def counting(network: torch.nn.Module, *inputs: torch.Tensor) -> object:
        answers: list[object] = []
        weights = method.networks()["generator"].parameters()
        kept.append(count_saved_mib(lambda *x: answers.append(run(network, *x)), *inputs, parameters=weights))
        return answers[0]

    method.run = counting  # type: ignore[attr-defined]
    batch = random_batch(channels_of(recipe), 1, GRID_PX, CPU)
    method.step(batch, Moment(recipe.stages[0], 0, 1.0, logged=False))
    assert kept == [pytest.approx(ten.saved_mib, rel=0.02)]
    plan = plan_run(recipe, cache_root=Path("nowhere"), device=CPU)
    assert plan.stages[0].activations_mib == 2 * ten.saved_mib


def test_operations_are_counted_as_torch_counts_them() -> None:
    network = build_translator(recipe_of("pix2pixhd"))
    given = torch.rand(2, 1, GRID_PX, GRID_PX), torch.rand(2, 1, GRID_PX, GRID_PX)
    with OperationCounter() as ours:
        network(*given).sum().backward()
    with FlopCounterMode(display=False) as theirs:
        network(*given).sum().backward()
    assert ours.flop == theirs.get_total_flops() > 0


def test_names_and_titles() -> None:
    assert method_names() == ("jmmda", *BASELINES)
    assert title_of("jmmda") == "JMMDA-GAN"
    assert len({title_of(name) for name in method_names()}) == len(method_names())


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"method": "pix2pi"}, "method", "did you mean pix2pix?"),
        ({"options": {"levels": 5, "wide": 1.0}}, "options.wide", "unknown key; did you mean width?"),
        ({"options": {"levels": 5, "width": 9.0}}, "options.width", "must be at most 4"),
        ({"options": {"levels": 6}}, "stages[0].grid_px", "must be a multiple of 64 for pix2pix"),
        ({"generator": {"size": "tiny"}}, "generator", "belongs to jmmda"),
        ({"loss": {"pixel": "l1"}}, "loss", "belongs to jmmda"),
        ({"discriminator": {"ndf": 8}}, "discriminator", "belongs to jmmda"),
        ({"run": {"compile": True}}, "run.compile", "belongs to jmmda"),
        ({"method": "jmmda"}, "options", "belongs to the comparison methods"),
        ({"method": "jmmda", "options": {}}, "generator", "is missing"),
    ],
)
def test_what_a_recipe_of_a_comparison_method_cannot_say(changes: dict[str, object], key: str, reason: str) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe_of("pix2pix", **changes)
    assert any(fault.key == key and reason in fault.reason for fault in raised.value.faults), raised.value


def test_options_not_named_keep_the_methods_own_defaults() -> None:
    for name, entry in BASELINES.items():
        recipe = dataclasses.replace(recipe_of(name), options={"width": 0.5})
        assert comparison_options(recipe) == dataclasses.replace(entry.options, width=0.5)


def test_a_run_can_be_opened_for_evaluation_but_not_exported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = trainer_of(recipe_of("unet_l1", steps=2), run)
    trainer.fit()
    assert (run / CHECKPOINT_NAME).exists()
    contract = trainer.training.contract
    values = {"cache": str(tmp_path), "cache_root": str(tmp_path), "contract": contract.to_json()}
    (run / "data.json").write_text(json.dumps(values), encoding="utf-8")
    subject = open_subject(str(run))
    image = subject.predictor.predict_case(drawn_case(5))
    assert image.shape == (4, GRID_PX, GRID_PX)
    assert (image[0] == -1.0).all()
    assert np.ptp(image[1]) > 0.0
    with pytest.raises(TrainingError, match="can be evaluated only"):
        export_run(run, tmp_path / "bundle")
