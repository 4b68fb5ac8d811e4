"""Simple controls on drawn cases where the right answer is known.

Leaves out how good they are on the phantom; docs/results.md has that.
"""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from training_cases import CONTRACT, drawn_case

from train.controls import ControlInput, IdentityWindow, draw_sample, fit_controls, smooth_in_brain


@pytest.fixture(scope="module")
def cases():
    return [drawn_case(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def controls(cases):
    return fit_controls(cases, CONTRACT)


@pytest.fixture(scope="module")
def unseen():
    return drawn_case(77)


def predict(control, case) -> np.ndarray:
    return control(ControlInput.of(case, CONTRACT))


def test_every_control_keeps_to_the_brain_and_to_the_range(controls, unseen) -> None:
    brain = np.asarray(unseen.brain) > 0
    assert set(controls) == {
        "hu_polynomial",
        "hu_lookup",
        "constant_in_mask",
        "mean_image",
        "identity_window",
        "histogram_match",
    }
    for name, control in controls.items():
        output = predict(control, unseen)
        assert output.dtype == np.float32, name
        assert (output[~brain] == -1).all(), name
        assert output.min() >= -1, name
        assert output.max() <= 1, name


def test_constant_is_the_mean_of_the_training_brains(controls, cases, unseen) -> None:
    brain = np.asarray(unseen.brain) > 0
    values = np.unique(predict(controls["constant_in_mask"], unseen)[brain])
    everywhere = np.concatenate([case.target_slices()[np.asarray(case.brain) > 0] for case in cases])
    assert values == pytest.approx([everywhere.mean()], abs=1e-5)


def test_controls_that_may_use_the_hu_beat_the_constant_on_hu_made_lesions(controls, unseen) -> None:
    brain = np.asarray(unseen.brain) > 0
    truth = unseen.target_slices(clean=True)[brain]

    def error(name: str) -> float:
        return float(((predict(controls[name], unseen)[brain] - truth) ** 2).mean())

    assert error("hu_polynomial") < 0.5 * error("constant_in_mask")
    assert error("hu_lookup") < 0.5 * error("constant_in_mask")


def test_mean_image_knows_the_place_and_not_the_hu(controls, unseen) -> None:
    brain = np.asarray(unseen.brain) > 0
    first = predict(controls["mean_image"], unseen)
    brighter = replace(unseen, hu=np.asarray(unseen.hu) + 320)  # 20 HU in steps of 1/16
    second = predict(controls["mean_image"], brighter)
    np.testing.assert_array_equal(first, second)
    assert np.ptp(first[brain]) > 0.1


def test_histogram_match_gives_the_training_distribution(controls, cases, unseen) -> None:
    brain = np.asarray(unseen.brain) > 0
    output = predict(controls["histogram_match"], unseen)[brain]
    wanted = draw_sample(cases, CONTRACT).target
    for q in (0.1, 0.5, 0.9):
        assert float(np.quantile(output, q)) == pytest.approx(float(np.quantile(wanted, q)), abs=0.05)


def test_identity_is_the_window() -> None:
    brain = np.ones((1, 1, 4), bool)
    hu = np.array([[[-50.0, 0.0, 40.0, 200.0]]], np.float32)
    assert IdentityWindow()(ControlInput(hu, hu, hu, hu, brain)).ravel().tolist() == [-1.0, -1.0, 0.0, 1.0]


def test_smoothing_does_not_mix_in_bone_or_air() -> None:
    brain = np.zeros((1, 20, 20), bool)
    brain[:, 5:15, 5:15] = True
    hu = np.where(brain, 30.0, 1500.0).astype(np.float32)
    np.testing.assert_allclose(smooth_in_brain(hu, brain, 2.0)[brain], 30.0, rtol=1e-5)


def test_no_training_case_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit_controls([], CONTRACT)


def test_controls_travel_to_worker_processes(controls, unseen) -> None:
    for name, control in controls.items():
        again = pickle.loads(pickle.dumps(control))
        np.testing.assert_array_equal(predict(again, unseen), predict(control, unseen), err_msg=name)


def test_a_cap_on_training_cases_keeps_evenly_spread_ones(cases) -> None:
    capped, two = fit_controls(cases, CONTRACT, most=2), fit_controls([cases[0], cases[-1]], CONTRACT)
    assert capped["constant_in_mask"] == two["constant_in_mask"]
    assert capped["constant_in_mask"] != fit_controls(cases, CONTRACT)["constant_in_mask"]
