"""What the synthesis stage leaves for the derive stage: two files, `result.npz` and `result.json`.

The stages do not import each other; they meet in these files. The JSON file is written last and names the SHA-256
of the array file, so a reader that finds a valid `result.json` has a complete result, whenever the writer was killed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_node.errors import Permanent
from dicom_node.ledger.durable import durable_write

RESULT_ARRAYS = "result.npz"
RESULT_JSON = "result.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """Pixels of one synthesised series on the grid of its CT, with all that describes how they came about.

    Attributes
    ----------
    pixels : numpy.ndarray
        (S, rows, cols) uint16, 0..4095, 0 outside the brain; slices in the order of `source_sop_instance_uids`.
    mask : numpy.ndarray
        (S, rows, cols) bool, brain mask on the CT grid.
    source_sop_instance_uids : tuple of str
        The CT slices, sorted along the normal.
    source_slices : tuple of tuple of int
        Per output slice the indices of the CT slices averaged for the network (slab mean); `(i,)` when only its own.
    notes : tuple of str
        What preprocessing did that a reader should know (slab means, resampling).
    quality_flags : tuple of str
        Codes of the eligibility check after the brain mask, such as `open_skull`.
    figures : Mapping[str, float]
        Numbers behind them, units in the keys (`brain_volume_ml`).
    seconds : Mapping[str, float]
        Wall seconds per step: `read`, `mask`, `grid`, `network`, `pixels`.
    expected_error : numpy.ndarray or None
        (S, rows, cols) float32 in 0..1: the absolute error that the network expects of itself, as a fraction of the
        full scale of `pixels`; None where its bundle does not say.
    """

    pixels: npt.NDArray[np.uint16]
    mask: npt.NDArray[np.bool_]
    source_sop_instance_uids: tuple[str, ...]
    source_slices: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()
    quality_flags: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    expected_error: npt.NDArray[np.float32] | None = None


def write_result(folder: Path, result: SynthesisResult) -> None:
    """Write the result into an existing folder: array file first, then the JSON file that vouches for it.

    Raises
    ------
    OSError
        The folder is missing or the disk is full; nothing that `read_result` accepts is left behind.
    """
    buffer = io.BytesIO()
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "pixels": result.pixels,
        "mask": np.packbits(result.mask, axis=-1),
    }
    if result.expected_error is not None:
        arrays["expected_error"] = result.expected_error
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()
    durable_write(folder / RESULT_ARRAYS, data)
    description = {
        "schema_version": _SCHEMA_VERSION,
        "arrays_sha256": hashlib.sha256(data).hexdigest(),
        "source_sop_instance_uids": list(result.source_sop_instance_uids),
        "source_slices": [list(indices) for indices in result.source_slices],
        "notes": list(result.notes),
        "quality_flags": list(result.quality_flags),
        "figures": dict(result.figures),
        "seconds": dict(result.seconds),
    }
    durable_write(folder / RESULT_JSON, json.dumps(description, indent=1).encode())


def read_result(folder: Path) -> SynthesisResult:
    """Read what `write_result` left.

    Raises
    ------
    Permanent
        `result_missing` when there is none, `result_damaged` when the array file does not match its hash.
    """
    try:
        description = json.loads((folder / RESULT_JSON).read_text())
        data = (folder / RESULT_ARRAYS).read_bytes()
    except FileNotFoundError as error:
        raise Permanent("result_missing", "the worker left no result; retry the series") from error
    if hashlib.sha256(data).hexdigest() != description["arrays_sha256"]:
        raise Permanent("result_damaged", "the result file does not match its hash; retry the series")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        pixels = arrays["pixels"]
        mask = np.unpackbits(arrays["mask"], axis=-1, count=pixels.shape[-1]).astype(bool)
        expected_error = arrays.get("expected_error")
    return SynthesisResult(
        pixels=pixels,
        mask=mask,
        source_sop_instance_uids=tuple(description["source_sop_instance_uids"]),
        source_slices=tuple(tuple(indices) for indices in description["source_slices"]),
        notes=tuple(description["notes"]),
        quality_flags=tuple(description["quality_flags"]),
        figures=description["figures"],
        seconds=description["seconds"],
        expected_error=expected_error,
    )
