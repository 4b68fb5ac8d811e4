"""The cases on which the brain mask is measured, each with its own name; making one takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import mask_heads as heads
from benchmarks.mask_heads import Head, scan_head
from benchmarks.mask_overlay import read_series
from jmmda_model.imaging import CtVolume

Scan = Callable[..., Head]

SEEDS = (11, 12, 13, 14)
SEED = 21


@dataclass(frozen=True, slots=True)
class Case:
    """A named case.

    Attributes
    ----------
    name
        Unique, for tables and file names.
    group
        Heading of the table.
    make
        Makes the stack and its truth.
    """

    name: str
    group: str
    make: Callable[[], Head]


def phantom_cases(matrix: int = 256) -> list[Case]:
    """Return every phantom case, on slices of ``matrix`` x ``matrix``."""
    scan = partial(scan_head, matrix=matrix)
    return [*_centres(scan), *_geometry(scan), *_surroundings(scan), *_pathology(scan)]


def _centres(scan: Scan) -> list[Case]:
    return [
        Case(f"centre {centre}, seed {seed}", "phantom of each centre", partial(scan, seed, centre))
        for centre in "ABC"
        for seed in SEEDS
    ]


def _geometry(scan: Scan) -> list[Case]:
    group = "phantom: how the scan lies"
    tilts = [
        Case(f"tilt {tilt:+d} deg", group, partial(scan, SEED, "A", tilt_deg=float(tilt), n_slices=slices))
        for size, slices in ((10, 30), (20, 34), (28, 38))
        for tilt in (size, -size)
    ]
    return [
        *tilts,
        Case("thick slices 8 mm", group, partial(scan, SEED, "A", slice_mm=8.0, n_slices=17)),
        Case("thick slices 10 mm", group, partial(scan, SEED, "B", slice_mm=10.0, n_slices=14)),
        Case("cut off below", group, lambda: heads.kept(scan(SEED, "A"), slice(10, None))),
        Case("cut off above", group, lambda: heads.kept(scan(SEED, "A"), slice(0, 17))),
        Case("rotated 30 deg in plane", group, lambda: heads.rotated(scan(SEED, "A"), 30.0)),
        Case("prone", group, lambda: heads.prone(scan(SEED, "A"))),
        Case("noise 15 HU more", group, lambda: heads.with_noise(scan(SEED, "A"), 15.0)),
    ]


def _surroundings(scan: Scan) -> list[Case]:
    group = "phantom: what surrounds the brain"
    low = {"n_slices": 40, "centre_z_mm": -27.0}
    return [
        Case("neck in view", group, partial(scan, SEED, "A", heads.neck, **low)),
        Case("neck in view, tilt 20 deg", group, partial(scan, SEED, "B", heads.neck, tilt_deg=20.0, **low)),
        Case("neck in view, tilt -20 deg", group, partial(scan, SEED, "B", heads.neck, tilt_deg=-20.0, **low)),
        Case("foramen magnum open", group, partial(scan, SEED, "A", heads.foramen)),
        Case("open skull base", group, partial(scan, SEED, "A", heads.open_base)),
        Case("open skull base, 8 mm", group, partial(scan, SEED, "A", heads.open_base, slice_mm=8.0, n_slices=17)),
        Case("skull base without contrast", group, partial(scan, SEED, "A", heads.sagging_floor)),
        Case("hard head holder", group, partial(scan, SEED, "A", heads.head_holder)),
        Case("child, thin skull", group, lambda: heads.shrunk(scan(SEED, "A", heads.thin_skull), 0.85)),
        Case("infant, thin skull", group, lambda: heads.shrunk(scan(SEED, "B", heads.thin_skull), 0.65)),
    ]


def _pathology(scan: Scan) -> list[Case]:
    group = "phantom: what is wrong with the head"
    changes = {
        "craniotomy 60 mm": heads.craniotomy(60.0),
        "craniotomy 60 mm, bulging 8 mm": heads.craniotomy(60.0, 8.0),
        "craniotomy 60 mm, bulging 15 mm": heads.craniotomy(60.0, 15.0),
        "craniotomy 60 mm, sunken 8 mm": heads.craniotomy(60.0, -8.0),
        "craniectomy 110 mm": heads.craniotomy(110.0),
        "craniectomy 110 mm, bulging 15 mm": heads.craniotomy(110.0, 15.0),
        "craniectomy 110 mm, sunken 10 mm": heads.craniotomy(110.0, -10.0),
        "epidural bleed 28 mm, 72 HU": heads.epidural(),
        "epidural bleed 28 mm, 95 HU": heads.epidural(95.0),
        "epidural bleed 28 mm, 110 HU": heads.epidural(110.0),
        "subdural bleed 14 mm, 80 HU": heads.subdural(),
        "subdural bleed 14 mm, 105 HU": heads.subdural(105.0),
        "aneurysm clip with streaks": heads.clip,
        "plates on the vault with streaks": heads.vault_plate,
    }
    return [Case(name, group, partial(scan, SEED, "A", change)) for name, change in changes.items()]


def real_cases() -> list[Case]:
    """Return the cases on public scans; none without the folder that JMMDA_TEST_DATA names."""
    data = Path(os.environ.get("JMMDA_TEST_DATA", "/nonexistent"))
    if not data.is_dir():
        return []
    group = "public scans"
    return [
        Case("ge_head_ct", group, lambda: _registered(read_series(data / "ge_head_ct", "*.dcm"), data)),
        Case("mricrogl_head_ct", group, lambda: _registered(whole_head(data), data)),
        Case(
            "philips_study (empty skull)", group, lambda: Head(read_series(data / "philips_study", "S2010*.dcm"), None)
        ),
    ]


def _registered(volume: CtVolume, data: Path) -> Head:
    """Return a scan with an atlas's opinion of its brain."""
    from benchmarks.mask_template import template_brain

    return Head(volume, template_brain(volume, data / "ct_template"))


def whole_head(data: Path) -> CtVolume:
    """Return the whole head and neck at 1 mm, stored in 8 bit."""
    import SimpleITK as sitk

    image = sitk.DICOMOrient(sitk.ReadImage(str(data / "mricrogl_head_ct" / "ct.nii.gz")), "LPS")
    hu = sitk.GetArrayFromImage(image) / 0.352 * 1036 - 1000
    step = np.array([[0.0, 0.0, image.GetSpacing()[2]]])
    positions = np.array(image.GetOrigin()) + np.arange(len(hu))[:, None] * step
    spacing = image.GetSpacing()
    return CtVolume(hu, positions, np.eye(3)[:2], (spacing[1], spacing[0]), np.full(len(hu), spacing[2]))
