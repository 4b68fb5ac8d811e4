"""The annotated node.toml agrees with the models it describes.

Covers the shipped file, the text made from settings and the way back. Leaves out ``config init``, which hands it out
(`test_config_command`).
"""

from __future__ import annotations

from pathlib import Path

from dicom_node.settings import Settings, load_settings, parse_settings
from dicom_node.settings.template import plain, render, template_text

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_file_is_what_the_descriptions_say() -> None:
    """To write it anew: python -c "from dicom_node.settings.template import render; print(render(), end='')"."""
    assert (ROOT / "config" / "node.toml").read_text("utf-8") == render()
    assert template_text() == render()


def test_the_shipped_file_is_valid_and_changes_no_default() -> None:
    settings = load_settings(ROOT / "config" / "node.toml")
    defaults = Settings()
    for section in set(Settings.model_fields) - {"peers", "routes"}:
        assert getattr(settings, section) == getattr(defaults, section), section


def test_every_key_of_every_section_is_described() -> None:
    text = render()
    for name in set(Settings.model_fields) - {"peers", "routes"}:
        section = getattr(Settings(), name)
        for key, field in type(section).model_fields.items():
            assert field.description, f"{name}.{key}"
            assert f"\n{key} = " in text or f"\n# {key} =\n" in text, f"{name}.{key}"


def test_settings_survive_being_written() -> None:
    raw = """
[node]
ae_title = 'A "quoted" one'
data_dir = "/srv/data"
[intake]
quiet_s = 12.5
[[peers]]
name = "x"
ae_titles = ["X", "Y"]
host = "::1"
port = 4242
roles = ["source", "destination"]
any_host = true
"""
    settings = parse_settings(raw, file="f", base=Path("/"))
    for text in (plain(settings), render(settings)):
        assert parse_settings(text, file="g", base=Path("/elsewhere")) == settings
    assert "#" not in plain(settings).replace("# threads =", "").replace("# url =", "")
