"""The three synthetic centres: scanner character and case mix.

A and B stand for the two hospitals of the paper (JEIT250643), C for an unseen third; the figures are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, slots=True)
class Centre:
    """Scanner character of one synthetic centre.

    Attributes
    ----------
    name
        "A", "B" or "C".
    index
        Enters the seed, so that one seed is a different patient at every centre.
    mean_age_years
        Mean age of its patients.
    ct_noise_hu
        Standard deviation of the CT noise in the brain of a 5 mm slice.
    ct_blur_mm
        Standard deviation of the reconstruction kernel's blur.
    ct_noise_peak_per_mm
        Spatial frequency at which the CT noise is strongest.
    ct_offset_hu
        Calibration offset of the CT.
    ct_cupping_hu
        Rise of the HU next to the inner table by beam hardening.
    field_t
        Field strength of the MR scanner.
    echo_time_ms
        TE of the diffusion sequence.
    dwi_snr
        Mean signal of the brain at b = 1000 s/mm2 over the noise of one channel.
    epi_matrix
        Range of acquired matrix sizes.
    epi_shift_mm
        Largest displacement along y near air.
    coil_bias
        Standard deviation of the logarithm of the coil's sensitivity.
    ghost
        Mean relative intensity of the N/2 ghost.
    misregistration_mm
        Root mean square displacement of the DWI against the CT in the brain.
    """

    name: str
    index: int
    mean_age_years: float
    ct_noise_hu: float
    ct_blur_mm: float
    ct_noise_peak_per_mm: float
    ct_offset_hu: float
    ct_cupping_hu: float
    field_t: float
    echo_time_ms: float
    dwi_snr: float
    epi_matrix: tuple[int, int]
    epi_shift_mm: float
    coil_bias: float
    ghost: float
    misregistration_mm: float


CENTRES: Mapping[str, Centre] = MappingProxyType(
    {
        "A": Centre("A", 0, 58.0, 4.6, 0.55, 0.20, 0.0, 2.0, 1.5, 98.0, 25.0, (128, 144), 1.8, 0.09, 0.010, 0.4),
        "B": Centre("B", 1, 64.0, 3.2, 0.45, 0.26, 1.5, 1.2, 3.0, 72.0, 39.0, (144, 160), 3.6, 0.13, 0.012, 0.4),
        "C": Centre("C", 2, 70.0, 6.0, 0.80, 0.16, -2.0, 3.2, 1.5, 110.0, 19.0, (112, 120), 2.6, 0.11, 0.028, 0.9),
    }
)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """T2 of the tissues in ms and their relative proton density, by field strength."""

    grey_t2_ms: float
    white_t2_ms: float
    deep_t2_ms: float
    pallidum_t2_ms: float
    fluid_t2_ms: float


def relaxation(centre: Centre) -> Relaxation:
    """T2 values at the centre's field strength (shorter at 3 T)."""
    if centre.field_t > 2:
        return Relaxation(84.0, 68.0, 74.0, 52.0, 900.0)
    return Relaxation(98.0, 80.0, 88.0, 66.0, 1300.0)


#: Tags that keep the random streams of one case apart: changing one step leaves the draws of the others as they are.
STREAMS = ("patient", "space", "cortex", "deep", "skull", "lesion", "tissue", "ct", "dwi")


def random_streams(seed: int, centre: Centre) -> Mapping[str, np.random.Generator]:
    """Independent generators, one for each step, from a seed and a centre."""
    root = np.random.SeedSequence([seed, centre.index, 0x4A4D4D44])
    children = root.spawn(len(STREAMS))
    return {name: np.random.default_rng(child) for name, child in zip(STREAMS, children, strict=True)}
