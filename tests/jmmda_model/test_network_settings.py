"""Settings of the networks: presets, JSON, refusals; and that reading them needs no torch.

Left out: whether each combination builds and runs (test_network_generator).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from jmmda_model.network.settings import (
    SIZES,
    DiscriminatorSettings,
    GeneratorSettings,
    SettingsValueError,
    Size,
)


@pytest.mark.parametrize("size", SIZES)
def test_a_preset_survives_json(size: Size) -> None:
    settings = GeneratorSettings.for_size(size, wavelet="db2", heads=2)
    assert GeneratorSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.size == size


def test_discriminator_settings_survive_json() -> None:
    settings = DiscriminatorSettings(6, num_scales=3, spectral_norm=True)
    assert DiscriminatorSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_only_the_paper_preset_leaves_the_output_unmasked() -> None:
    assert [size for size in SIZES if not GeneratorSettings.for_size(size).mask_output] == ["paper"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mgff": "gate"}, "mgff must be one of"),
        ({"afw": "sum"}, "afw must be one of"),
        ({"heads": 5}, "does not divide the 48 attention channels of level 1"),
        ({"heads": 0}, "at least 1"),
        ({"ngf": -1}, "at least 1"),
        ({"ngf": 24.0}, "of type int"),
        ({"n_down": True}, "of type int"),
        ({"mfab": 1}, "of type bool"),
        ({"mfab": False, "hf_skip": True}, "hf_skip needs the high-frequency path"),
        ({"mfab_paths": "low", "hf_skip": True}, "hf_skip needs the high-frequency path"),
        ({"mfab": False, "image_pyramid": True}, "image_pyramid needs mfab"),
        ({"decoder": "bilinear"}, "decoder must be one of transposed, resize, idwt"),
        ({"heteroscedastic": 1}, "of type bool"),
        ({"depth": 3}, "has no field depth"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsValueError, match=message):
        GeneratorSettings.for_size("compact", **changes)


def test_a_card_older_than_an_option_is_refused_and_names_it() -> None:
    values = GeneratorSettings().to_json()
    for option in ("image_pyramid", "unet_skips", "heteroscedastic"):
        assert values.pop(option) is False
    with pytest.raises(SettingsValueError, match="lacks the field heteroscedastic, image_pyramid, unet_skips"):
        GeneratorSettings.from_json(values)


def test_heads_are_free_where_no_attention_is() -> None:
    assert GeneratorSettings.for_size("compact", mfab_paths="high", heads=5).heads == 5


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(SettingsValueError, match="size must be one of"):
        GeneratorSettings.for_size("huge")  # type: ignore[arg-type]


def test_json_with_a_missing_or_unknown_field_is_refused() -> None:
    values = GeneratorSettings().to_json()
    with pytest.raises(SettingsValueError, match="has no field depth"):
        GeneratorSettings.from_json({**values, "depth": True})
    del values["wavelet"]
    with pytest.raises(SettingsValueError, match="lacks the field wavelet"):
        GeneratorSettings.from_json(values)


def test_reading_settings_and_bundles_does_not_load_torch() -> None:
    code = "import sys, jmmda_model, jmmda_model.network.settings, jmmda_model.bundle;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
