"""The runtime: whole volumes, recalibration, flip averaging, devices, self-test and the precision rule.

Runs a real tiny network. Left out: speed (benchmarks); reduced precision on a real GPU runs under the marker
``cuda``, its decision rule runs everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jmmda_model.bundle import Bundle, BundleError, load_generator, make_untrained_bundle, save_bundle
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.grid import GridPlacement, NetworkInput
from jmmda_model.network.generator import build_generator
from jmmda_model.precision import CANDIDATES, Agreement, Precision, arithmetic, choose_precision
from jmmda_model.probe import probe_input
from jmmda_model.runtime import Runtime, RuntimeUnavailableError

GRID = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_untrained_bundle(
        tmp_path_factory.mktemp("bundles") / "tiny", contract=PreprocessingContract(grid_px=GRID, grid_spacing_mm=3.6)
    )


@pytest.fixture(scope="module")
def runtime(bundle: Bundle) -> Runtime:
    return Runtime.load(bundle, device="cpu")


def _with(bundle: Bundle, folder: Path, **changes: Any) -> Bundle:
    """Return the bundle with another card."""
    return save_bundle(folder, load_generator(bundle).state_dict(), replace(bundle.card, **changes))


@pytest.fixture(scope="module")
def uncertain(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose network predicts a scale that varies over the image."""
    card = replace(bundle.card, generator=replace(bundle.card.generator, heteroscedastic=True))
    torch.manual_seed(3)
    network = build_generator(card.generator)
    network.load_state_dict(load_generator(bundle).state_dict(), strict=False)
    assert network.scale_head is not None
    torch.nn.init.normal_(network.scale_head[1].weight, 0.0, 0.05)
    return save_bundle(tmp_path_factory.mktemp("bundles") / "uncertain", network.state_dict(), card)


def _volume(slices: int = 5, *, without: tuple[int, ...] = (), size: int = GRID, channels: int = 3) -> NetworkInput:
    ct, mask = probe_input(channels, 2, batch=slices, size_px=size)
    has_brain = np.ones(slices, dtype=bool)
    for index in without:
        has_brain[index] = False
    placement = GridPlacement(False, False, False, (size, size), (3.6, 3.6), np.zeros((slices, 2)), size, 3.6)
    return NetworkInput(ct, mask, has_brain, placement, tuple((i,) for i in range(slices)), ())


def test_a_volume_becomes_what_the_network_says_slice_by_slice(runtime: Runtime, bundle: Bundle) -> None:
    volume = _volume()
    result = runtime.predict(volume)
    assert result.shape == (5, GRID, GRID)
    assert result.dtype == np.float32
    with torch.inference_mode():
        expected = load_generator(bundle)(torch.from_numpy(volume.ct), torch.from_numpy(volume.mask))[:, 0].numpy()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert result[volume.mask[:, 0] > 0].std() > 0


def test_slices_without_brain_are_black_and_cost_nothing(runtime: Runtime) -> None:
    steps: list[tuple[int, int]] = []
    result = runtime.predict(_volume(without=(0, 3)), progress=lambda done, total: steps.append((done, total)))
    assert (result[[0, 3]] == -1.0).all()
    assert result[1].max() > -1.0
    np.testing.assert_array_equal(result[1], runtime.predict(_volume())[1])
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_volume_without_any_brain_is_black(runtime: Runtime) -> None:
    result = runtime.predict(_volume(2, without=(0, 1)))
    assert (result == -1.0).all()


def test_the_result_is_black_outside_the_brain_whatever_the_recalibration(bundle: Bundle, tmp_path: Path) -> None:
    volume = _volume(2)
    plain = Runtime.load(bundle, device="cpu").predict(volume)
    shifted = Runtime.load(_with(bundle, tmp_path / "b", output_affine=(0.5, 0.25)), device="cpu").predict(volume)
    brain = volume.mask[:, 0] > 0
    assert (shifted[~brain] == -1.0).all()
    np.testing.assert_allclose(shifted[brain], 0.5 * plain[brain] + 0.25, rtol=0, atol=1e-6)


def test_recalibration_cannot_leave_the_range(bundle: Bundle, tmp_path: Path) -> None:
    result = Runtime.load(_with(bundle, tmp_path / "b", output_affine=(50.0, 0.9)), device="cpu").predict(_volume(2))
    assert result.min() == -1.0
    assert result.max() == 1.0


def test_flip_averaging_makes_the_result_equivariant(bundle: Bundle, tmp_path: Path) -> None:
    volume = _volume(2)
    mirrored = replace(volume, ct=volume.ct[..., ::-1].copy(), mask=volume.mask[..., ::-1].copy())
    plain = Runtime.load(bundle, device="cpu")
    averaging = Runtime.load(_with(bundle, tmp_path / "b", flip_average=True), device="cpu")
    assert np.abs(plain.predict(mirrored)[..., ::-1] - plain.predict(volume)).max() > 1e-2
    np.testing.assert_allclose(averaging.predict(mirrored)[..., ::-1], averaging.predict(volume), rtol=0, atol=1e-6)
    expected = 0.5 * (plain.predict(volume) + plain.predict(mirrored)[..., ::-1])
    np.testing.assert_allclose(averaging.predict(volume), expected, rtol=0, atol=1e-5)


def _bare_scale(bundle: Bundle, volume: NetworkInput) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        inputs = torch.from_numpy(volume.ct.copy()), torch.from_numpy(volume.mask.copy())
        scale: np.ndarray[Any, Any] = load_generator(bundle).forward_with_scale(*inputs)[1].exp()[:, 0].numpy()
    return np.where(volume.mask[:, 0] > 0, scale, 0.0)


def test_the_scale_of_the_error_comes_with_the_same_prediction(uncertain: Bundle, runtime: Runtime) -> None:
    volume = _volume(3, without=(1,))
    steps: list[int] = []
    prediction, scale = Runtime.load(uncertain, device="cpu").predict_with_scale(
        volume, progress=lambda done, _: steps.append(done)
    )
    np.testing.assert_array_equal(prediction, runtime.predict(volume))
    assert steps == [0, 1, 2]
    assert scale.dtype == np.float32
    assert (scale[1] == 0.0).all()
    np.testing.assert_allclose(scale[[0, 2]], _bare_scale(uncertain, volume)[[0, 2]], rtol=1e-4, atol=0)
    brain = volume.mask[0, 0] > 0
    assert scale[0][brain].min() > 0
    assert scale[0][brain].std() > 1e-3
    assert (scale[0][~brain] == 0.0).all()


def test_the_scale_is_mirror_averaged_and_recalibrated_as_the_mean_is(uncertain: Bundle, tmp_path: Path) -> None:
    volume = _volume(2)
    mirrored = replace(volume, ct=volume.ct[..., ::-1].copy(), mask=volume.mask[..., ::-1].copy())
    plain, flipped = _bare_scale(uncertain, volume), _bare_scale(uncertain, mirrored)[..., ::-1]
    assert np.abs(plain - flipped).max() > 1e-3
    changed = _with(uncertain, tmp_path / "b", flip_average=True, output_affine=(-0.5, 0.1))
    _, scale = Runtime.load(changed, device="cpu").predict_with_scale(volume)
    np.testing.assert_allclose(scale, 0.5 * 0.5 * (plain + flipped), rtol=1e-4, atol=1e-7)


def test_a_network_without_scale_refuses_to_make_one_up(runtime: Runtime, uncertain: Bundle) -> None:
    assert not runtime.predicts_scale
    assert Runtime.load(uncertain, device="cpu").predicts_scale
    with pytest.raises(RuntimeUnavailableError, match="predicts no scale") as caught:
        runtime.predict_with_scale(_volume(1))
    assert caught.value.code == "uncertainty"


def test_channels_beyond_the_windows_are_only_channels(tmp_path: Path) -> None:
    contract = PreprocessingContract(grid_px=GRID, grid_spacing_mm=3.6, neighbours=2, mirror=True)
    wide = make_untrained_bundle(tmp_path / "wide", contract=contract)
    runtime = Runtime.load(wide, device="cpu")
    volume = _volume(2, channels=contract.ct_channel_count)
    assert runtime.predict(volume)[volume.mask[:, 0] > 0].std() > 0
    assert runtime.self_test().psnr_db > 100
    with pytest.raises(ValueError, match="contract needs"):
        runtime.predict(_volume(2, channels=3))


@pytest.mark.parametrize("volume", [_volume(2, size=128), _volume(2, channels=1)])
def test_an_input_of_another_contract_is_refused(runtime: Runtime, volume: NetworkInput) -> None:
    with pytest.raises(ValueError, match="contract needs"):
        runtime.predict(volume)


def test_values_that_are_not_finite_never_become_an_image(runtime: Runtime) -> None:
    volume = _volume(1)
    volume.ct[0, 0, 30, 30] = np.nan
    with pytest.raises(RuntimeUnavailableError) as caught:
        runtime.predict(volume)
    assert caught.value.code == "not_finite"


def test_two_runs_give_the_same_bits(runtime: Runtime, bundle: Bundle) -> None:
    first = runtime.predict(_volume())
    np.testing.assert_array_equal(first, runtime.predict(_volume()))
    np.testing.assert_array_equal(first, Runtime.load(bundle, device="cpu", threads=1).predict(_volume()))


def test_the_self_test_compares_with_double_precision(runtime: Runtime) -> None:
    test = runtime.self_test()
    assert (test.device, test.precision) == ("cpu", "fp32")
    assert test.psnr_db > 100
    assert test.max_levels < 0.5
    assert test.seconds > 0


def test_a_network_that_is_not_the_recorded_one_fails_the_self_test(bundle: Bundle) -> None:
    recorded = bundle.card.self_test
    assert recorded is not None
    other = replace(recorded, standard_deviation=recorded.standard_deviation + 0.1)
    runtime = Runtime.load(replace(bundle, card=replace(bundle.card, self_test=other)), device="cpu")
    with pytest.raises(RuntimeUnavailableError, match=r"deviates by 0\.1") as caught:
        runtime.self_test()
    assert caught.value.code == "self_test"


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_named(bundle: Bundle, device: str) -> None:
    with pytest.raises(RuntimeUnavailableError) as caught:
        Runtime.load(bundle, device=device)
    assert caught.value.code == "device"
    assert device in caught.value.reason


@pytest.mark.parametrize(("option", "code"), [({"precision": "int8"}, "precision"), ({"threads": 0}, "device")])
def test_impossible_options_are_refused(bundle: Bundle, option: dict[str, Any], code: str) -> None:
    with pytest.raises(RuntimeUnavailableError) as caught:
        Runtime.load(bundle, device="cpu", **option)
    assert caught.value.code == code


def test_threads_are_set_for_the_process(bundle: Bundle) -> None:
    before = torch.get_num_threads()
    try:
        Runtime.load(bundle, device="cpu", threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_damaged_weights_are_a_fault_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    spoilt = _with(bundle, tmp_path / "b")
    spoilt.weights_path.write_bytes(b"")
    with pytest.raises(BundleError):
        Runtime.load(spoilt, device="cpu")


@pytest.mark.parametrize(
    ("psnr_db", "max_levels", "holds"),
    [
        (78.0, 5.0, True),
        (60.0, 8.0, True),
        (59.99, 5.0, False),
        (78.0, 8.01, False),
        (float("inf"), 0.0, True),
        (float("nan"), 0.0, False),
        (78.0, float("nan"), False),
    ],
)
def test_the_rule_of_reduced_precision(psnr_db: float, max_levels: float, holds: bool) -> None:
    assert Agreement(psnr_db, max_levels).holds is holds


def test_agreement_counts_levels_of_the_stored_output() -> None:
    reference = np.zeros((1, 10, 10))
    output = reference.astype(np.float32)
    output[0, 0, 0] = 2.0 / 4095.0
    agreement = Agreement.between(output, reference, 4095)
    assert agreement.max_levels == pytest.approx(1.0, rel=1e-6)
    # One pixel of a hundred is off by one level of a range of 2: 20 log10(4095) + 20 dB.
    assert agreement.psnr_db == pytest.approx(20 * np.log10(4095) + 20, abs=1e-4)
    assert Agreement.between(reference, reference, 4095).psnr_db == float("inf")
    output[0, 0, 0] = np.nan
    assert not Agreement.between(output, reference, 4095).holds


GOOD, BAD = Agreement(78.0, 5.0), Agreement(59.0, 5.0)


@pytest.mark.parametrize(
    ("agreements", "chosen", "asked"),
    [
        ({Precision.FP16: GOOD, Precision.TF32: GOOD}, Precision.FP16, 1),
        ({Precision.FP16: BAD, Precision.TF32: GOOD}, Precision.TF32, 2),
        ({Precision.FP16: BAD, Precision.TF32: BAD}, Precision.FP32, 2),
    ],
)
def test_precision_falls_back_where_it_does_not_hold(
    agreements: dict[Precision, Agreement], chosen: Precision, asked: int
) -> None:
    seen: list[Precision] = []

    def measure(precision: Precision) -> Agreement:
        seen.append(precision)
        return agreements[precision]

    assert choose_precision(CANDIDATES["cuda"], measure) is chosen
    assert len(seen) == asked


def test_the_cpu_never_reduces_precision(runtime: Runtime) -> None:
    assert CANDIDATES["cpu"] == ()
    assert runtime.precision is Precision.FP32


def test_a_measured_reduced_precision_really_differs(runtime: Runtime) -> None:
    # bf16 is no candidate, but the CPU has it: the measurement itself is real here.
    agreement = runtime.measure(Precision.BF16)
    assert 20 < agreement.psnr_db < 70
    assert runtime.measure(Precision.FP32).psnr_db == float("inf")


def test_tf32_is_set_for_a_block_and_restored() -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    for precision, expected in ((Precision.TF32, "tf32"), (Precision.FP32, "ieee")):
        with arithmetic(torch.device("cuda"), precision):
            assert (matmul.fp32_precision, conv.fp32_precision) == (expected, expected)
        assert (matmul.fp32_precision, conv.fp32_precision) == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_cuda_reproduces_the_cpu(bundle: Bundle, runtime: Runtime, precision: str) -> None:
    cuda = Runtime.load(bundle, device="cuda:0", precision=precision)
    test = cuda.self_test()
    assert Agreement(test.psnr_db, test.max_levels).holds
    assert Agreement.between(cuda.predict(_volume()), runtime.predict(_volume()), 4095).holds
    assert Runtime.load(bundle).device.type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_auto_uses_the_cpu_where_no_cuda_is(bundle: Bundle) -> None:
    assert Runtime.load(bundle).device_name == "cpu"
