"""The files between synthesis and derive: what is written is read back, and damage is noticed.

Left out: durability after a power cut, which needs a fault layer below the file system.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_node.errors import Permanent
from dicom_node.ledger.result_file import RESULT_ARRAYS, RESULT_JSON, SynthesisResult, read_result, write_result


def _result(columns: int = 13) -> SynthesisResult:
    rng = np.random.default_rng(5)
    mask = rng.random((3, 7, columns)) > 0.5
    return SynthesisResult(
        pixels=(rng.integers(0, 4096, mask.shape) * mask).astype(np.uint16),
        mask=mask,
        source_sop_instance_uids=("1.2.3", "1.2.4", "1.2.5"),
        source_slices=((0,), (0, 1, 2), (2,)),
        notes=("slab means",),
        quality_flags=("open_skull",),
        figures={"brain_volume_ml": 1234.5},
        seconds={"mask": 0.25},
    )


@pytest.mark.parametrize("columns", [8, 13, 16])
def test_a_result_is_read_back_as_it_was_written(tmp_path: Path, columns: int) -> None:
    written = _result(columns)
    write_result(tmp_path, written)
    read = read_result(tmp_path)
    np.testing.assert_array_equal(read.pixels, written.pixels)
    np.testing.assert_array_equal(read.mask, written.mask)
    assert read.pixels.dtype == np.uint16
    for name in ("source_sop_instance_uids", "source_slices", "notes", "quality_flags", "figures", "seconds"):
        assert getattr(read, name) == getattr(written, name)


def test_the_expected_error_comes_along_where_there_is_one(tmp_path: Path) -> None:
    assert _result().expected_error is None
    error = np.random.default_rng(6).random((3, 7, 13)).astype(np.float32)
    write_result(tmp_path, replace(_result(), expected_error=error))
    read = read_result(tmp_path).expected_error
    assert read is not None
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, error)


def test_no_result_is_named_as_missing(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="result_missing"):
        read_result(tmp_path)


def test_an_array_file_alone_is_no_result(tmp_path: Path) -> None:
    write_result(tmp_path, _result())
    (tmp_path / RESULT_JSON).unlink()
    with pytest.raises(Permanent, match="result_missing"):
        read_result(tmp_path)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    write_result(tmp_path, _result())
    data = bytearray((tmp_path / RESULT_ARRAYS).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / RESULT_ARRAYS).write_bytes(data)
    with pytest.raises(Permanent, match="result_damaged"):
        read_result(tmp_path)


def test_the_description_is_plain_json_without_partial_files(tmp_path: Path) -> None:
    write_result(tmp_path, _result())
    assert json.loads((tmp_path / RESULT_JSON).read_text())["schema_version"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [RESULT_JSON, RESULT_ARRAYS]
