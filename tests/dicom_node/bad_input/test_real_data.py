"""Every folder of the public test images ends as documented, by the functions behind `synthesize` and its `--explain`.

The two heads go through mask and network; the other folders end before. Left out: the quality of what comes out.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dicom_node.errors import NodeError, Permanent, Refused
from dicom_node.offline import OfflineRules, StudyPlan, plan_study, scan, synthesize_study
from dicom_node.synthesize.pipeline import load_runtime
from tests.dicom_node.bad_input.real_data import NO_DICOM, REAL

RULES = OfflineRules()


def _plan(folder: Path) -> StudyPlan:
    scanned = scan(folder)
    assert dict(scanned.unreadable) == {}
    [(uid, series)] = scanned.studies.items()
    return plan_study(uid, series, RULES)


def test_no_folder_is_left_out(shared_data: Path) -> None:
    tops = {path.name for path in shared_data.iterdir() if path.is_dir()} - {"licences"}
    assert {name.partition("/")[0] for name in REAL} == tops
    assert {f"geometry_cases/{path.name}" for path in (shared_data / "geometry_cases").iterdir()} <= set(REAL)


@pytest.mark.parametrize("name", [name for name, folder in REAL.items() if folder.series])
def test_choice_and_gate_are_as_documented(shared_data: Path, name: str) -> None:
    plan, documented = _plan(shared_data / name), REAL[name]
    assert {verdict.series_number: verdict.code for verdict in plan.verdicts} == documented.series
    assert all(verdict.reason for verdict in plan.verdicts)
    gate = plan.gate
    assert (gate.status.value if gate else None) == documented.gate
    assert tuple(note.partition(":")[0] for note in (gate.notes if gate else ())) == documented.notes
    if documented.end == "no_series":
        with pytest.raises(Refused) as refused:
            plan.ensure_processable()
        assert refused.value.code == "no_series"


@pytest.mark.parametrize("name", [name for name, folder in REAL.items() if folder.end == NO_DICOM])
def test_a_folder_without_dicom_says_so(shared_data: Path, name: str) -> None:
    with pytest.raises(Permanent) as failed:
        scan(shared_data / name)
    assert failed.value.code == NO_DICOM


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, folder in REAL.items() if folder.gate])
def test_the_heads_end_as_documented(shared_data: Path, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    runtime = load_runtime(str(tiny_bundle), device="cpu", threads=1)
    steps = itertools.count()
    try:
        result = synthesize_study(
            _plan(shared_data / name), runtime, RULES, tmp_path, lambda step, done, total: next(steps)
        )
        end = f"{len(result.series.instances)} synthetic slices"
    except NodeError as error:
        end = f"{'REFUSED' if isinstance(error, Refused) else 'FAILED'} {error.code}"
    assert end == REAL[name].end
