"""A quality flag on its way from the brain mask to the reader: pipeline, result files, image, report, job record.

Left out: which picture has which flag (`tests/jmmda_model/test_eligibility`), and the ledger's other columns.
"""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from rich.console import Console

from dicom_node.commands.journey_view import show_story
from dicom_node.dicom.slices import read_headers
from dicom_node.errors import Refused
from dicom_node.ledger.queries import JobView, SeriesView
from dicom_node.ledger.result_file import read_result, write_result
from dicom_node.settings import EligibilitySettings, parse_settings
from dicom_node.settings.faults import SettingsError
from dicom_node.stages.derivation import _quality_figures
from dicom_node.synthesize.pipeline import load_runtime, synthesize_series
from jmmda_model.eligibility_codes import CODES


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Path):
    return load_runtime(str(tiny_bundle), device="cpu", threads=1)


@pytest.fixture
def paths(phantom_ct: Path) -> list[Path]:
    headers = [header for path in phantom_ct.glob("*.dcm") for header in read_headers(path)]
    return [header.path for header in sorted(headers, key=lambda one: one.image_position_patient[2])]


def _aged(paths: list[Path], folder: Path, **attributes: str) -> list[Path]:
    """Copy the series with another age."""
    for path in paths:
        ds = pydicom.dcmread(path)
        for keyword in ("PatientAge", "PatientBirthDate"):
            ds.pop(keyword, None)
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / path.name)
    return [folder / path.name for path in paths]


@pytest.mark.parametrize(
    ("attributes", "flags"), [({"PatientAge": "006Y"}, ("child",)), ({"PatientAge": "060Y"}, ()), ({}, ())]
)
def test_the_age_of_the_header_decides(runtime, paths, tmp_path: Path, attributes, flags):
    result = synthesize_series(_aged(paths, tmp_path, **attributes), runtime)
    assert result.quality_flags == flags
    write_result(tmp_path, result)
    again = read_result(tmp_path)
    assert again.quality_flags == flags
    assert _quality_figures(again)["quality_flags"] == list(flags)
    assert _quality_figures(again)["skull_hu"] > 500


def test_the_limits_of_the_site_reach_the_check(runtime, paths):
    limits = EligibilitySettings(usual_min_ml=100.0, usual_max_ml=200.0).model_dump()
    assert "volume" in synthesize_series(paths, runtime, eligibility=limits).quality_flags
    with pytest.raises(Refused) as caught:
        synthesize_series(paths, runtime, eligibility=EligibilitySettings(max_brain_ml=300.0).model_dump())
    assert caught.value.code == "no_brain"
    assert caught.value.figures["volume_ml"] > 300
    assert "volume_ml" in caught.value.reason


def test_limits_that_contradict_each_other_are_a_fault_of_the_file():
    with pytest.raises(SettingsError) as caught:
        parse_settings("[eligibility]\nusual_min_ml = 1500.0\nusual_max_ml = 900.0\n", file="f", base=Path("/"))
    assert "usual_min_ml must not be above usual_max_ml" in str(caught.value)


def test_the_story_of_a_series_tells_the_flag_in_words():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    job = JobView("k", "RESULT", "DERIVED", None, None, moment, 1, None, None, (), ("metal",), {"metal_ml": 0.1}, ())
    view = SeriesView(
        "1.2", "1.2.3", "CT", "DERIVED", None, None, {}, 24, "CT1", *(moment,) * 3, (), {}, None, None, None, "DECIDED",
        None, (job,),
    )  # fmt: skip
    out = io.StringIO()
    show_story(Console(file=out, soft_wrap=True), view, [])
    assert f"quality: metal: {CODES['metal'].words}" in out.getvalue()
    assert view.to_json()["jobs"][0]["quality_flags"] == ["metal"]
    out = io.StringIO()
    show_story(Console(file=out, soft_wrap=True), replace(view, jobs=(replace(job, quality_flags=()),)), [])
    assert "quality" not in out.getvalue()
