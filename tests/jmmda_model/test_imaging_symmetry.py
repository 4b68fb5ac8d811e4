"""Mid-sagittal line: known reflections, rotated and shifted heads, one-sided lesions, slices mirrored about it.

Independent reference: an analytic head whose line is known, and NumPy's flip. Left out: a roll of the head against
the stack, for which one line cannot be right.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmmda_model.imaging import mid_sagittal_line, mirror_slices

SIZE = 128


def head(angle_rad: float, offset_px: float, *, lesion: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(6, SIZE, SIZE) HU and brain of an egg with two ventricles about a given line, sharper in front than behind."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    across = x * math.cos(angle_rad) + y * math.sin(angle_rad) - offset_px
    along = -x * math.sin(angle_rad) + y * math.cos(angle_rad)
    brain = (across / (36 + 0.12 * along)) ** 2 + (along / 46) ** 2 < 1
    hu = np.where(brain, 32.0, -1000.0)
    hu[((np.abs(across) - 9) / 5) ** 2 + ((along + 4) / 16) ** 2 < 1] = 8.0
    if lesion:
        hu[((across - 20) / 12) ** 2 + (along / 14) ** 2 < 1] -= 7.0
    rng = np.random.default_rng(3)
    stack = np.stack([hu] * 6) + rng.normal(0, 4, (6, SIZE, SIZE))
    return stack.astype(np.float32), np.stack([brain] * 6)


@pytest.mark.parametrize("lesion", [False, True])
@pytest.mark.parametrize(("degrees", "offset"), [(0.0, 0.0), (4.0, 3.0), (-9.0, -5.0), (18.0, 0.0)])
def test_a_known_line_is_found(degrees: float, offset: float, lesion: bool) -> None:
    angle, found = mid_sagittal_line(*head(math.radians(degrees), offset, lesion=lesion))
    assert math.degrees(angle) == pytest.approx(degrees, abs=1.0)
    assert found == pytest.approx(offset, abs=0.8)


def test_a_mirrored_head_has_the_mirrored_line() -> None:
    hu, brain = head(math.radians(5.0), 2.5)
    angle, offset = mid_sagittal_line(hu, brain)
    other_angle, other_offset = mid_sagittal_line(hu[..., ::-1], brain[..., ::-1])
    assert other_angle == pytest.approx(-angle, abs=5e-3)
    assert other_offset == pytest.approx(-offset, abs=0.2)


def test_without_brain_the_line_is_the_middle() -> None:
    hu, brain = head(0.0, 0.0)
    assert mid_sagittal_line(hu, np.zeros_like(brain)) == (0.0, 0.0)


def test_mirroring_about_the_middle_is_a_flip() -> None:
    hu, _ = head(0.0, 0.0)
    np.testing.assert_allclose(mirror_slices(hu, (0.0, 0.0)), hu[..., ::-1], atol=1e-3)


@given(st.floats(-0.4, 0.4), st.floats(-10, 10))
def test_mirroring_twice_gives_the_smooth_slice_back(angle: float, offset: float) -> None:
    axis = np.linspace(-1, 1, 64)
    smooth = (40 * np.cos(2 * axis[:, None]) * np.cos(2 * axis[None] + 0.3))[None].astype(np.float32)
    twice = mirror_slices(mirror_slices(smooth, (angle, offset)), (angle, offset))
    inner = (slice(None), slice(24, 40), slice(24, 40))
    np.testing.assert_allclose(twice[inner], smooth[inner], atol=0.5)


def test_what_comes_in_from_outside_is_air() -> None:
    mirrored = mirror_slices(np.full((1, 32, 32), 40.0, np.float32), (0.0, 8.0))
    assert mirrored.min() == pytest.approx(-1024.0)


def test_a_one_sided_lesion_stands_out_against_the_mirror_image() -> None:
    line = (math.radians(4.0), 3.0)
    hu, brain = head(*line, lesion=True)
    healthy, _ = head(*line)
    lesion = (healthy - hu)[0] > 3
    difference = (hu - mirror_slices(hu, mid_sagittal_line(hu, brain))).mean(axis=0)
    assert difference[lesion].mean() == pytest.approx(-7.0, abs=0.8)
