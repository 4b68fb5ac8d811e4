"""The generator's objective: which terms a recipe switches on, their weights, precision, checkpoints; the uncertainty.

Leaves out the terms one by one (the other test_objectives modules) and whether they train a good network; that is
measured in docs/results.md.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.settings import DiscriminatorSettings
from train.data.dataset import Batch
from train.objectives import (
    AdaptiveRobust,
    GeneratorObjective,
    ObjectiveError,
    SegmenterPerceptual,
    adversarial_generator_loss,
    feature_matching_loss,
    gradient_difference_loss,
    gradient_norms,
    heteroscedastic_loss,
    laplace_nll,
    lesion_contrast_loss,
    ms_ssim_loss,
    pixel_loss,
    pixel_weights,
    wavelet_loss,
)
from train.recipe import LossRecipe

OFF = LossRecipe(pixel="none", gan_weight=0.0, feature_matching_weight=0.0)


#: The brain of `make_batch` lies half a pixel to the left of the middle.
MIDLINES = torch.tensor([[0.0, -0.5], [0.0, -0.5]])


def make_batch(size: int = 112, known: tuple[float, float] = (1.0, 1.0)) -> Batch:
    """Two slices with brain and lesion; the truth is noise in the brain and -1 outside."""
    rng = torch.Generator().manual_seed(2)
    brain = torch.zeros(2, 1, size, size)
    brain[..., size // 6 : -(size // 6), size // 5 : -(size // 5) - 1] = 1
    lesion = torch.zeros_like(brain)
    lesion[..., size // 3 : size // 2, size // 4 : size // 3] = 1
    noise = torch.rand(brain.shape, generator=rng) - 0.5 + lesion * 0.5
    target = torch.where(brain > 0, noise, torch.full_like(brain, -1.0))
    ct = torch.rand(2, 1, size, size, generator=rng)
    return Batch(ct, brain.clone(), target, brain, lesion, torch.tensor(known))


def make_prediction(batch: Batch) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    return (batch.target * 0.5 + 0.1 * torch.randn(batch.target.shape, generator=rng)).requires_grad_()


def judge(batch: Batch, image: torch.Tensor):
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(in_channels=2, ndf=4, n_layers=2, num_scales=2))
    return discriminator(torch.cat([batch.ct, image], dim=1))


class HalfSize:
    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(image, 2)]


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        (
            {"pixel": "l1", "pixel_weight": 3.0},
            "pixel",
            lambda p, b: 3 * pixel_loss(p, b.target, b.brain, b.lesion, LossRecipe(pixel="l1")),
        ),
        ({"wavelet_weight": 2.0}, "wavelet", lambda p, b: 2 * wavelet_loss(p, b.target, b.brain)),
        (
            {"wavelet_weight": 2.0, "wavelet_levels": 1, "normalise": "frame"},
            "wavelet",
            lambda p, b: 2 * wavelet_loss(p, b.target, levels=1),
        ),
        ({"ms_ssim_weight": 0.5}, "ms_ssim", lambda p, b: 0.5 * ms_ssim_loss(p, b.target, b.brain)),
        (
            {"gradient_difference_weight": 4.0},
            "gradient_difference",
            lambda p, b: 4 * gradient_difference_loss(p, b.target, b.brain),
        ),
        (
            {"lesion_contrast_weight": 2.5},
            "lesion_contrast",
            lambda p, b: 2.5 * lesion_contrast_loss(p, b.target, b.brain, b.lesion, MIDLINES),
        ),
    ],
)
def test_one_switch_gives_one_weighted_term(changes, name, expected) -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    terms = GeneratorObjective(dataclasses.replace(OFF, **changes)).terms(prediction, batch)
    assert list(terms) == [name]
    torch.testing.assert_close(terms[name], expected(prediction, batch), rtol=1e-4, atol=1e-6)
    assert float(terms[name].detach()) > 0


def test_adversarial_terms_are_there_in_a_stage_with_a_discriminator_only() -> None:
    batch = make_batch(64)
    prediction = make_prediction(batch)
    objective = GeneratorObjective(LossRecipe(gan="hinge", gan_weight=0.7, feature_matching_weight=3.0))
    assert list(objective.terms(prediction, batch)) == ["pixel"]
    on_real, on_fake = judge(batch, batch.target), judge(batch, prediction)
    terms = objective.terms(prediction, batch, on_real=on_real, on_fake=on_fake)
    assert list(terms) == ["pixel", "gan", "feature_matching"]
    torch.testing.assert_close(terms["gan"], 0.7 * adversarial_generator_loss(on_fake, "hinge"))
    torch.testing.assert_close(terms["feature_matching"], 3.0 * feature_matching_loss(on_real, on_fake))


def test_perceptual_disc_is_feature_matching_and_is_never_counted_twice() -> None:
    batch = make_batch(64)
    prediction = make_prediction(batch)
    on_real, on_fake = judge(batch, batch.target), judge(batch, prediction)
    disc = dataclasses.replace(OFF, perceptual="disc", perceptual_weight=3.0)
    terms = GeneratorObjective(disc).terms(prediction, batch, on_real=on_real, on_fake=on_fake)
    assert list(terms) == ["feature_matching"]
    torch.testing.assert_close(terms["feature_matching"], 3.0 * feature_matching_loss(on_real, on_fake))
    with pytest.raises(ObjectiveError, match="another name") as caught:
        GeneratorObjective(dataclasses.replace(disc, feature_matching_weight=2.0))
    assert caught.value.code == "disc_counted_twice"


def test_perceptual_term_is_weighted_and_must_be_there() -> None:
    batch = make_batch(32)
    prediction = make_prediction(batch)
    recipe = dataclasses.replace(OFF, perceptual="seg", perceptual_weight=2.0)
    term = SegmenterPerceptual(HalfSize())
    terms = GeneratorObjective(recipe, perceptual=term).terms(prediction, batch)
    assert list(terms) == ["perceptual"]
    torch.testing.assert_close(terms["perceptual"], 2 * term(prediction, batch.target))
    with pytest.raises(ObjectiveError, match="without its network"):
        GeneratorObjective(recipe)


def test_objective_without_any_term_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="switched off"):
        GeneratorObjective(OFF)
    needs_discriminator = GeneratorObjective(dataclasses.replace(OFF, gan_weight=1.0))
    batch = make_batch(32)
    with pytest.raises(ObjectiveError, match="needs a discriminator"):
        needs_discriminator.terms(make_prediction(batch), batch)


@pytest.mark.parametrize("pixel", ["squared", "adaptive"])
def test_unknown_lesion_enters_no_term(pixel) -> None:
    unknown = make_batch(known=(1.0, 0.0))
    prediction = make_prediction(unknown)
    without = dataclasses.replace(unknown, lesion=unknown.lesion * unknown.lesion_known.view(2, 1, 1, 1))
    recipe = dataclasses.replace(LossRecipe(pixel=pixel, heteroscedastic=True), lesion_contrast_weight=1.0)
    log_scale = torch.full_like(prediction, -1.0)
    objective = GeneratorObjective(recipe)
    ours = objective.terms(prediction, unknown, log_scale=log_scale)
    wanted = objective.terms(prediction, without, log_scale=log_scale)
    known = objective.terms(prediction, make_batch(), log_scale=log_scale)
    assert set(ours) == {"pixel", "heteroscedastic", "lesion_contrast"}
    for name, value in ours.items():
        torch.testing.assert_close(value, wanted[name])
        assert not torch.isclose(value, known[name], rtol=1e-4)


def test_mirror_lines_reach_the_lesion_contrast() -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    objective = GeneratorObjective(dataclasses.replace(OFF, lesion_contrast_weight=1.0))
    lines = torch.tensor([[0.1, 3.0], [0.0, -2.0]])
    terms = objective.terms(prediction, batch, mirror_lines=lines)
    wanted = lesion_contrast_loss(prediction, batch.target, batch.brain, batch.lesion, lines)
    torch.testing.assert_close(terms["lesion_contrast"], wanted)


ALL = LossRecipe(
    pixel="adaptive",
    wavelet_weight=1.0,
    ms_ssim_weight=1.0,
    gradient_difference_weight=1.0,
    lesion_contrast_weight=1.0,
    heteroscedastic=True,
    perceptual="seg",
    perceptual_weight=1.0,
)


def test_terms_are_single_precision_under_autocast() -> None:
    batch = make_batch()
    prediction = make_prediction(batch)
    objective = GeneratorObjective(ALL, perceptual=SegmenterPerceptual(HalfSize()))
    log_scale = torch.full_like(prediction, -1.0)
    features = {"on_real": judge(batch, batch.target), "on_fake": judge(batch, prediction)}
    plain = objective.terms(prediction, batch, log_scale=log_scale, **features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = objective.terms(prediction, batch, log_scale=log_scale, **features)
    assert len(plain) == 9
    for name, value in plain.items():
        assert under[name].dtype == torch.float32
        torch.testing.assert_close(under[name], value, rtol=1e-6, atol=0.0)
    half = {key: [[f.bfloat16() for f in scale] for scale in value] for key, value in features.items()}
    rounded = objective.terms(prediction.bfloat16(), batch, log_scale=log_scale.bfloat16(), **half)
    assert {value.dtype for value in rounded.values()} == {torch.float32}


def test_all_terms_together_have_finite_gradients_where_there_is_no_brain() -> None:
    full = make_batch()
    empty = dataclasses.replace(
        full,
        brain=torch.zeros_like(full.brain),
        lesion=torch.zeros_like(full.lesion),
        target=torch.full_like(full.target, -1.0),
    )
    prediction = torch.full_like(full.target, -1.0).requires_grad_()
    log_scale = torch.full_like(prediction, -200.0).requires_grad_()  # as small as an unused head may drift
    objective = GeneratorObjective(ALL, perceptual=SegmenterPerceptual(HalfSize()))
    terms = objective.terms(prediction, empty, log_scale=log_scale)
    torch.stack(list(terms.values())).sum().backward()
    for gradient in (prediction.grad, log_scale.grad, *(p.grad for p in objective.parameters())):
        assert torch.isfinite(gradient).all()


def test_adaptive_parameters_are_the_objective_s_own_and_survive_a_checkpoint() -> None:
    batch = make_batch(32)
    objective = GeneratorObjective(LossRecipe(pixel="adaptive", alpha=1.2, scale_c=0.3)).to(torch.device("cpu"))
    assert objective.learnt() == pytest.approx({"alpha": 1.2, "scale_c": 0.3})
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.1)
    objective.terms(make_prediction(batch), batch)["pixel"].backward()
    optimiser.step()
    assert objective.learnt() != pytest.approx({"alpha": 1.2, "scale_c": 0.3})
    again = GeneratorObjective(LossRecipe(pixel="adaptive"))
    again.load_state_dict(objective.state_dict())
    assert again.learnt() == objective.learnt()
    assert set(objective.state_dict()) == {"latent_alpha", "latent_scale"}


def test_objective_that_learns_nothing_has_no_parameters_and_takes_none() -> None:
    objective = GeneratorObjective(LossRecipe(), adaptive=AdaptiveRobust())
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    assert objective.learnt() == {}
    objective.load_state_dict({})
    with pytest.raises(RuntimeError, match="latent_alpha"):
        objective.load_state_dict({"latent_alpha": torch.zeros(())})


def test_laplace_likelihood_is_that_of_scipy() -> None:
    residual = np.array([-1.2, 0.0, 0.03, 0.7])
    log_scale = np.array([-3.0, -1.0, -2.0, 0.4])
    ours = laplace_nll(torch.from_numpy(residual), torch.from_numpy(log_scale))
    np.testing.assert_allclose(ours.numpy(), -stats.laplace(scale=np.exp(log_scale)).logpdf(residual), rtol=1e-12)


def test_heteroscedastic_loss_is_a_weighted_mean_in_the_brain() -> None:
    batch = make_batch(32)
    prediction = make_prediction(batch).detach()
    log_scale = torch.linspace(-3, 0, 2 * 32 * 32).view(2, 1, 32, 32)
    weights = pixel_weights(batch.brain, batch.lesion, 4.0, 0.0)
    loss = heteroscedastic_loss(prediction, log_scale, batch.target, weights)
    each = []
    for i in range(2):
        inside = batch.brain[i].numpy() > 0
        residual = (prediction - batch.target)[i].numpy()[inside]
        density = stats.laplace(scale=np.exp(log_scale[i].numpy()[inside])).logpdf(residual)
        each.append(-np.average(density, weights=1 + 4 * batch.lesion[i].numpy()[inside]))
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-5)


def test_best_scale_is_the_mean_absolute_residual() -> None:
    rng = np.random.default_rng(0)
    residual = torch.from_numpy(stats.laplace(scale=0.12).rvs(400, random_state=rng))
    scales = torch.linspace(0.05, 0.3, 251, dtype=torch.float64)
    values = torch.stack([laplace_nll(residual, s.log()).mean() for s in scales])
    assert float(scales[values.argmin()]) == pytest.approx(float(residual.abs().mean()), abs=1e-3)


def test_uncertainty_beside_a_pixel_term_fits_the_scale_and_leaves_the_prediction_alone() -> None:
    batch = make_batch(32)
    prediction = make_prediction(batch)
    log_scale = torch.full_like(prediction, -1.0).detach().requires_grad_()
    beside = GeneratorObjective(LossRecipe(heteroscedastic=True, pixel_weight=10.0))
    terms = beside.terms(prediction, batch, log_scale=log_scale)
    assert gradient_norms(terms, prediction)["heteroscedastic"] == 0.0
    (pull,) = torch.autograd.grad(terms["heteroscedastic"], log_scale, retain_graph=True)
    assert float(pull.abs().sum()) > 0
    assert not pull[batch.brain == 0].any()
    alone = GeneratorObjective(dataclasses.replace(OFF, heteroscedastic=True, pixel_weight=10.0))
    full = alone.terms(prediction, batch, log_scale=log_scale)
    assert list(full) == ["heteroscedastic"]
    assert gradient_norms(full, prediction)["heteroscedastic"] > 0
    torch.testing.assert_close(full["heteroscedastic"], 10 * terms["heteroscedastic"])


def test_uncertainty_needs_a_scale() -> None:
    batch = make_batch(32)
    with pytest.raises(ObjectiveError, match="predicts a scale") as caught:
        GeneratorObjective(LossRecipe(heteroscedastic=True)).terms(make_prediction(batch), batch)
    assert caught.value.code == "no_log_scale"


def test_gradient_norms_are_those_of_each_term_and_leave_the_graph() -> None:
    prediction = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = {"half_square": (prediction**2).sum() / 2, "sum": 2 * prediction.sum()}
    norms = gradient_norms(terms, prediction)
    assert norms == pytest.approx({"half_square": 5.0, "sum": 2 * math.sqrt(2)})
    sum(terms.values()).backward()
    torch.testing.assert_close(prediction.grad, torch.tensor([5.0, 6.0]))
