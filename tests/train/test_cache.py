"""Format of the training cache: facts and arrays come back, a case is there whole or not at all, versions are checked.

A full disk and a kill are simulated at the file system's door; `test_prepare` fills a real small file system.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_cases import CONTRACT, drawn_case

from train.data import cache as cache_module
from train.data.cache import (
    CachedCase,
    CacheError,
    CaseFacts,
    encode_hu,
    encode_target,
    load_case,
    load_split,
    read_index,
    write_case,
    write_index,
)


def arrays_of(case: CachedCase) -> dict[str, Any]:
    names = ("hu", "target", "brain", "lesion", "clean")
    return {name: np.asarray(getattr(case, name)) for name in names if getattr(case, name) is not None}


def named(case: CachedCase, **changes: Any) -> CaseFacts:
    return dataclasses.replace(case.facts, **changes)


def test_a_case_comes_back_as_it_was_written(tmp_path: Path) -> None:
    case = drawn_case(1)
    facts = named(case, affine=((1.0, 0.0, 0.0, 2.5),) * 4, registration={"metric": -0.5}, symmetry=(0.1, -2.0))
    back = write_case(tmp_path / facts.patient, facts, arrays_of(case))
    assert back.facts == facts
    for name, array in arrays_of(case).items():
        np.testing.assert_array_equal(getattr(back, name), array)
    assert isinstance(back.hu, np.memmap)
    assert back.has_lesion_label
    assert back.has_clean
    assert not list(tmp_path.glob(".*"))


def test_unknown_lesions_and_missing_clean_targets_are_told_apart_from_empty_ones(tmp_path: Path) -> None:
    case = drawn_case(2, lesion=False)
    arrays = arrays_of(case)
    del arrays["lesion"], arrays["clean"]
    back = write_case(tmp_path / "p", named(case, patient="p", lesion_ml=None), arrays)
    assert not back.has_lesion_label
    assert not back.lesion_slices().any()
    with pytest.raises(CacheError, match="no clean target"):
        back.target_slices(clean=True)


@pytest.mark.parametrize("full_at", ["hu.npy", "case.json"])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    case = drawn_case(1)
    folder = tmp_path / case.facts.patient
    write_case(folder, case.facts, arrays_of(case))
    real_open = Path.open

    def full(self: Path, mode: str = "r", **kwargs: Any) -> Any:
        if full_at in self.name and "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(self, mode, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            write_case(folder, named(case, brain_ml=1.0), arrays_of(case))
    assert load_case(folder).facts == case.facts
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_interrupted_case_is_not_taken_for_a_complete_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dies(*_args: object, **_kwargs: object) -> None:
        raise Killed

    case = drawn_case(1)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.json, "dumps", dies)
        with pytest.raises(Killed):
            write_case(tmp_path / case.facts.patient, case.facts, arrays_of(case))
    assert load_split(tmp_path, "train") == ()
    with pytest.raises(FileNotFoundError):
        load_case(tmp_path / case.facts.patient)


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    case = drawn_case(1)
    for wrong in (
        {"hu": np.zeros((1, 2, 2))},
        arrays_of(case) | {"extra": np.zeros(1)},
        arrays_of(case) | {"brain": np.zeros((1, 2, 2))},
    ):
        with pytest.raises(CacheError) as caught:
            write_case(tmp_path / "x", case.facts, wrong)
        assert caught.value.code == "case"


@pytest.mark.parametrize("patient", ["", "../up", "a/b", ".hidden", "Doe^John"])
def test_a_name_that_is_no_folder_name_is_refused(patient: str) -> None:
    with pytest.raises(CacheError, match="no name for a case"):
        named(drawn_case(1), patient=patient)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(CacheError, match="split"):
        named(drawn_case(1), split="val")


def test_facts_of_another_version_are_refused(tmp_path: Path) -> None:
    values = drawn_case(1).facts.to_json()
    for wrong in (values | {"more": 1}, {key: value for key, value in values.items() if key != "centre"}):
        with pytest.raises(CacheError, match="missing or unknown keys"):
            CaseFacts.from_json(json.loads(json.dumps(wrong)))


def test_splits_and_centres_are_told_apart(tmp_path: Path) -> None:
    for name, centre, split in (("p1", "A", "train"), ("p2", "B", "train"), ("p3", "A", "test")):
        case = drawn_case(1)
        write_case(tmp_path / name, named(case, patient=name, centre=centre, split=split), arrays_of(case))
    assert [case.facts.patient for case in load_split(tmp_path, "train")] == ["p1", "p2"]
    assert [case.facts.patient for case in load_split(tmp_path, "train", centres={"B"})] == ["p2"]
    assert [case.facts.patient for case in load_split(tmp_path, "test")] == ["p3"]


def test_the_index_says_contract_source_and_notes(tmp_path: Path) -> None:
    write_index(tmp_path / "cache", CONTRACT, "nifti", split="patient")
    index = read_index(tmp_path / "cache")
    assert (index.contract, index.source, index.notes) == (CONTRACT, "nifti", {"split": "patient"})


@pytest.mark.parametrize(
    ("change", "code"), [(None, "missing"), ({"layout": 1}, "layout"), ({"contract": {"version": 1}}, "contract")]
)
def test_an_index_that_cannot_be_used_says_why(tmp_path: Path, change: dict[str, Any] | None, code: str) -> None:
    if change is not None:
        write_index(tmp_path, CONTRACT, "nifti")
        file = tmp_path / "cache.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CacheError) as caught:
        read_index(tmp_path)
    assert caught.value.code == code


def test_encoding_clips_and_keeps_a_sixteenth_of_a_hu() -> None:
    hu = np.array([-3000.0, -0.03, 30.06, 5000.0])
    np.testing.assert_allclose(encode_hu(hu) / 16.0, [-1024, 0.0, 30.0625, 2047], atol=1e-9)
    np.testing.assert_allclose(encode_target(np.array([-1.5, 0.25, 1.0])) / 32767.0, [-1, 0.25, 1], atol=2e-5)


def test_more_cases_are_opened_than_the_usual_limit_of_open_files_allows(tmp_path: Path) -> None:
    """In a process of its own with a soft limit of 64 files: 30 cases of 5 arrays."""
    for seed in range(30):
        case = drawn_case(seed)
        write_case(tmp_path / f"p{seed}", named(case, patient=f"p{seed}"), arrays_of(case))
    program = (
        "import resource, sys; from pathlib import Path; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
        "from train.data.cache import load_split; print(len(load_split(Path(sys.argv[1]), 'train')))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "30", done.stderr
