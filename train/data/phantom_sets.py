"""Whole sets of phantom patients on disk, made in parallel, with a manifest.

A set is reproducible from its manifest: every case is named by centre and seed, and neither the number of workers nor
the order in which they finish changes a byte of the arrays. A set that was interrupted or killed is continued: cases
appear complete or not at all.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from train.data.phantom import generate_case
from train.data.phantom_files import (
    WORK_FOLDER,
    SetFormat,
    case_bytes,
    load_npz,
    save_dicom,
    save_nifti,
    save_npz,
    unfinished_folder,
)
from train.data.phantom_headers import PhantomPatient
from train.data.phantom_manifest import (
    MANIFEST_NAME,
    SetEntry,
    SetSummary,
    centre_facts,
    lesion_counts,
    read_manifest,
    split_entries,
    write_json,
    write_manifest,
)
from train.data.phantom_mr import Vendor
from train.data.phantom_plans import PatientPlan, PhantomSetError, SetGeometry, plan_patients
from train.data.workers import one_thread_each

__all__ = [
    "PhantomSetError",
    "SetEntry",
    "SetFormat",
    "SetGeometry",
    "SetSummary",
    "bytes_needed",
    "check_space",
    "load_npz",
    "read_manifest",
    "save_dicom",
    "save_nifti",
    "save_npz",
    "write_plans",
    "write_set",
]

Progress = Callable[[int, int], None]
"""Called with (cases done, cases in all), in the calling process."""

#: What the system says when a file system, a quota or a limit has no room left.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Bytes that stay free beside the set.
_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Order:
    """What one worker makes."""

    out: Path
    plan: PatientPlan
    form: SetFormat
    vendor: Vendor

    @property
    def path(self) -> Path:
        return self.out / (f"{self.plan.patient}.npz" if self.form is SetFormat.NPZ else self.plan.patient)

    @property
    def note(self) -> Path:
        """The entry is kept beside the case, so that an interrupted set is continued without making it again."""
        return self.out / WORK_FOLDER / "entries" / f"{self.plan.patient}.json"

    def recipe(self) -> dict[str, object]:
        return asdict(self.plan) | {"format": self.form.value, "vendor": self.vendor.value}


def _finished(order: _Order) -> SetEntry | None:
    """The entry of a case that is already there and was made by the same recipe."""
    if not (order.path.exists() and order.note.exists()):
        return None
    note = json.loads(order.note.read_text(encoding="utf-8"))
    return SetEntry(**note["entry"]) if note["recipe"] == order.recipe() else None


def _make(order: _Order) -> SetEntry:
    """Make and store one case; runs in a worker process."""
    plan = order.plan
    case = generate_case(plan.seed, plan.centre, lesion=plan.lesion, **asdict(plan.geometry))
    # Without its note a case counts as missing: killed between the two, another recipe's case is never taken for this.
    order.note.unlink(missing_ok=True)
    making = unfinished_folder(order.out)
    if order.form is SetFormat.NPZ:
        save_npz(case, order.path, making=making)
    elif order.form is SetFormat.NIFTI:
        save_nifti(case, order.path, making=making)
    else:
        save_dicom(case, order.path, vendor=order.vendor, patient=PhantomPatient(sex=plan.sex), making=making)
    entry = SetEntry(
        patient=plan.patient,
        path=order.path.name,
        split=None,
        seed=plan.seed,
        centre=plan.centre,
        lesion_kind=case.lesion_kind.value,
        side=case.side,
        lesion_ml=round(case.lesion_ml, 3),
        hu_drop=round(case.hu_drop, 3),
        onset_h=round(case.onset_h, 3),
        age_years=round(case.age_years, 1),
        misregistration_mm=round(case.misregistration_mm, 3),
        sex=plan.sex,
        n_slices=plan.geometry.n_slices,
    )
    write_json(order.note, {"recipe": order.recipe(), "entry": asdict(entry)})
    return entry


def _made(orders: Sequence[_Order], workers: int) -> Iterator[SetEntry]:
    if workers <= 1 or len(orders) <= 1:
        yield from map(_make, orders)
        return
    # Started afresh, not forked: a thread pool of the parent (BLAS, torch) does not survive a fork.
    with one_thread_each():
        pool = ProcessPoolExecutor(min(workers, len(orders)), mp_context=get_context("spawn"))
        try:
            for done in as_completed([pool.submit(_make, order) for order in orders]):
                yield done.result()
        finally:
            # After an error the cases that wait are not made first.
            pool.shutdown(cancel_futures=True)


def bytes_needed(plans: Sequence[PatientPlan], form: SetFormat) -> int:
    """Bytes that the cases will take on disk, estimated from above."""
    return sum(case_bytes(form, plan.geometry.n_slices, plan.geometry.matrix) for plan in plans)


def check_space(root: Path, needed: int) -> None:
    """Refuse to start what will not fit.

    Raises
    ------
    PhantomSetError
        ``disk_space`` with both figures.
    """
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed + _SPARE_BYTES > free:
        figures = f"{needed / 2**20:.0f} MiB needed, {max(free - _SPARE_BYTES, 0) / 2**20:.0f} MiB free"
        raise PhantomSetError("disk_space", f"the set does not fit on the disk: {figures}; free some or make fewer")


def write_plans(
    out: Path | str,
    plans: Sequence[PatientPlan],
    *,
    workers: int = 1,
    format: SetFormat | Literal["npz", "nifti", "dicom"] = SetFormat.NPZ,  # noqa: A002 - the word users type
    vendor: Vendor | Literal["standard", "ge", "siemens", "toshiba"] = Vendor.STANDARD,
    progress: Progress | None = None,
    notes: Mapping[str, Any] | None = None,
) -> SetSummary:
    """Write the patients of a plan, with ``manifest.json`` and ``splits.json`` once all are there.

    Parameters
    ----------
    out
        Folder of the set; complete cases of the same recipe that are already there are kept.
    plans
        The patients.
    workers
        Processes; the result does not depend on it.
    format
        "npz" (read with `load_npz`), "nifti" (a folder for each patient) or "dicom" (``CT/*.dcm``, ``DWI/*.dcm`` and
        ``lesion.nii.gz`` for each patient, as ``train prepare`` takes them).
    vendor
        Where the b value stands in DICOM.
    progress
        Called after each case, and at the start with what was kept.
    notes
        JSON values that go into the manifest as they are.

    Raises
    ------
    PhantomSetError
        ``format``, ``count`` (no or equal patients), ``disk_space`` before the start, ``disk_full``, ``disk`` or
        ``worker`` on the way; what was complete stays, and the set can be continued.
    """
    form, root, began = _format_of(format), Path(out), time.monotonic()
    orders = [_Order(root, plan, form, Vendor(vendor)) for plan in plans]
    if not orders or len({order.path for order in orders}) != len(orders):
        raise PhantomSetError("count", "a set has at least one patient, and none twice")
    try:
        found = {order.plan.patient: _finished(order) for order in orders}
        missing = [order for order in orders if found[order.plan.patient] is None]
        check_space(root, bytes_needed([order.plan for order in missing], form))
        shutil.rmtree(unfinished_folder(root), ignore_errors=True)
        (root / WORK_FOLDER / "entries").mkdir(parents=True, exist_ok=True)
        unfinished_folder(root).mkdir()
        # A manifest lists a complete set, so an older one goes before cases are added or replaced.
        if missing:
            (root / MANIFEST_NAME).unlink(missing_ok=True)
        entries = [entry for entry in found.values() if entry is not None]
        kept = len(entries)
        if progress is not None:
            progress(kept, len(orders))
        for entry in _made(missing, workers):
            entries.append(entry)
            if progress is not None:
                progress(len(entries), len(orders))
        placed = split_entries(root, entries)
        manifest = write_manifest(root, placed, plans, form.value, notes or {})
        seconds = round(time.monotonic() - began, 1)
        return SetSummary(manifest, len(placed) - kept, kept, seconds, centre_facts(placed), lesion_counts(placed))
    except OSError as error:
        raise _disk_error(error) from error
    except BrokenProcessPool as error:
        reason = "a worker process ended by itself (out of memory?); the same command goes on with fewer --workers"
        raise PhantomSetError("worker", reason) from error
    finally:
        shutil.rmtree(unfinished_folder(root), ignore_errors=True)


def _format_of(word: str) -> SetFormat:
    try:
        return SetFormat(word)
    except ValueError as error:
        raise PhantomSetError("format", f"format must be one of {[str(f) for f in SetFormat]}, not {word!r}") from error


def _disk_error(error: OSError) -> PhantomSetError:
    if error.errno in _NO_ROOM:
        return PhantomSetError("disk_full", "the disk is full; make room and give the same command again to go on")
    return PhantomSetError("disk", f"the set cannot be written: {error.strerror} ({error.filename})")


def write_set(
    out: Path | str,
    centre: str | Sequence[str],
    n: int,
    seed: int,
    workers: int = 1,
    format: SetFormat | Literal["npz", "nifti", "dicom"] = SetFormat.NPZ,  # noqa: A002 - the word users type
    progress: Progress | None = None,
    *,
    geometry: SetGeometry | None = None,
    lesion: str = "random",
) -> Path:
    """Write `n` patients of each centre, with seeds `seed`, `seed` + 1, ..., and return the manifest.

    Parameters
    ----------
    out, workers, format, progress
        As for `write_plans`.
    centre, n, seed, geometry, lesion
        As for `plan_patients`.

    Raises
    ------
    PhantomSetError
        As `plan_patients` and `write_plans`.
    """
    centres = [centre] if isinstance(centre, str) else list(centre)
    plans = plan_patients(centres, n, seed, geometry=geometry, lesion=lesion)
    return write_plans(out, plans, workers=workers, format=format, progress=progress).manifest
