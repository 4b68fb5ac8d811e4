"""What is in a set of phantoms: its entries, its split, its counts, and the files that say so."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.data.cache import SPLITS, Split
from train.data.phantom_lesions import LesionKind
from train.data.phantom_plans import PatientPlan, PhantomSetError
from train.data.splits import SplitCase, assign_splits

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 2
SPLITS_NAME = "splits.json"


@dataclass(frozen=True, slots=True)
class SetEntry:
    """One patient of a set, as the manifest has it.

    Attributes
    ----------
    patient
        ``<centre>-<seed>``; one patient is one case, and is in one split only.
    path
        File or folder, relative to the set.
    split
        "train", "validation" or "test", see `split_entries`; None until the set is whole, since it is split as one.
    seed, centre, lesion_kind, side, lesion_ml, hu_drop, onset_h, age_years, misregistration_mm
        As in `PhantomCase`.
    sex, n_slices
        As planned.
    """

    patient: str
    path: str
    split: Split | None
    seed: int
    centre: str
    lesion_kind: str
    side: str
    lesion_ml: float
    hu_drop: float
    onset_h: float
    age_years: float
    misregistration_mm: float
    sex: str
    n_slices: int


@dataclass(frozen=True, slots=True)
class SetSummary:
    """What is in a set.

    Attributes
    ----------
    manifest
        Its manifest.
    made, kept
        Cases made now, and found complete from an earlier run.
    seconds
        Wall time.
    centres
        Centre -> patients, men, women, slices, mean age in years, and patients a split.
    lesion_kinds
        Kind -> centre -> patients; every kind is there.
    """

    manifest: Path
    made: int
    kept: int
    seconds: float
    centres: Mapping[str, Mapping[str, float]]
    lesion_kinds: Mapping[str, Mapping[str, int]]


def write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def split_entries(root: Path, entries: Sequence[SetEntry]) -> tuple[SetEntry, ...]:
    """Give every patient its split, in the order of centre and seed.

    70/10/20 by patient, stratified by centre and tercile of lesion volume; who is in ``splits.json`` of the folder
    already stays where it is, so that a set which grows never moves a test patient to training.
    """
    kept: dict[str, Split] = {}
    if (root / SPLITS_NAME).is_file():
        listed = json.loads((root / SPLITS_NAME).read_text(encoding="utf-8"))
        kept = {patient: split for split in SPLITS for patient in listed.get(split, ())}
    splits = assign_splits(
        SplitCase(entry.patient, entry.centre, entry.lesion_ml, kept=kept.get(entry.patient)) for entry in entries
    )
    placed = (dataclasses.replace(entry, split=splits[entry.patient]) for entry in entries)
    return tuple(sorted(placed, key=lambda entry: (entry.centre, entry.seed)))


def lesion_counts(entries: Sequence[SetEntry]) -> dict[str, dict[str, int]]:
    """Kind -> centre -> patients; kinds that do not occur are there with 0."""
    counts = Counter((entry.lesion_kind, entry.centre) for entry in entries)
    centres = sorted({entry.centre for entry in entries})
    return {str(kind): {centre: counts[(str(kind), centre)] for centre in centres} for kind in LesionKind}


def centre_facts(entries: Sequence[SetEntry]) -> dict[str, dict[str, float]]:
    """Figures of each centre, in the terms of the paper's table 1."""
    return {centre: _facts(entries, centre) for centre in sorted({entry.centre for entry in entries})}


def _facts(entries: Sequence[SetEntry], centre: str) -> dict[str, float]:
    """Figures of one centre, in the terms of the paper's table 1."""
    own = [entry for entry in entries if entry.centre == centre]
    return {
        "patients": len(own),
        "men": sum(entry.sex == "M" for entry in own),
        "women": sum(entry.sex == "F" for entry in own),
        "mean_age_years": round(sum(entry.age_years for entry in own) / len(own), 1),
        "slices": sum(entry.n_slices for entry in own),
        **{split: sum(entry.split == split for entry in own) for split in SPLITS},
    }


def write_manifest(
    root: Path, entries: Sequence[SetEntry], plans: Sequence[PatientPlan], form: str, notes: Mapping[str, Any]
) -> Path:
    """Write the list of splits, in the form that the readers of archives take, and then the manifest.

    Parameters
    ----------
    root
        Folder of the set.
    entries
        From `split_entries`.
    plans
        What they were made from.
    form
        Value of `SetFormat`.
    notes
        JSON values that go into the manifest as they are.
    """
    listed: dict[str, Any] = {split: [e.patient for e in entries if e.split == split] for split in SPLITS}
    facts = centre_facts(entries)
    listed["centres"] = {centre: [e.patient for e in entries if e.centre == centre] for centre in facts}
    write_json(root / SPLITS_NAME, listed)
    geometries = {json.dumps(asdict(plan.geometry), sort_keys=True) for plan in plans}
    content = {
        "version": MANIFEST_VERSION,
        "data": "digital phantom, no patients",
        "format": form,
        "lesions": sorted({plan.lesion for plan in plans}),
        "geometries": [json.loads(text) for text in sorted(geometries)],
        "centres": facts,
        "lesion_kinds": lesion_counts(entries),
        "notes": dict(notes),
        "cases": [asdict(entry) for entry in entries],
    }
    write_json(root / MANIFEST_NAME, content)
    return root / MANIFEST_NAME


def read_manifest(path: Path | str) -> tuple[SetEntry, ...]:
    """Read the entries of a set from its manifest or its folder.

    Raises
    ------
    PhantomSetError
        ``manifest`` if it is of another version.
    """
    file = Path(path)
    file = file / MANIFEST_NAME if file.is_dir() else file
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["version"] != MANIFEST_VERSION:
        raise PhantomSetError("manifest", f"manifest version {content['version']} is not {MANIFEST_VERSION}")
    return tuple(SetEntry(**case) for case in content["cases"])
