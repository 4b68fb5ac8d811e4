"""The series choice: which series of a study is processed, and for each other one the reason why not.

Every series is asked the questions of `QUESTIONS` in turn; the first that is answered "no" rules it out and gives code
and reason. What is left is scored, and the best is chosen. The questions look at all instances (class, ImageType,
positions, kernel, thickness), not at the description alone, which is free text and often empty.

======================= =============================================================================================
code                    meaning
======================= =============================================================================================
chosen                  the best of the eligible series
not_preferred           eligible, but another one scores higher
synthetic               marked as synthetic, our own results included (loop guard)
not_ct                  Modality is none of those configured
localizer               nothing but localizers
dose_screen             nothing but dose reports or patient information screens
secondary_capture       nothing but other captured screens
enhanced_not_processed  Enhanced CT or multi-frame, which this version stores but does not process
derived                 ImageType says that the images are derived, reformatted or projected
too_few_slices          fewer image slices than the configured minimum
orientation             coronal or sagittal slices
perfusion               each position was imaged several times
contrast                contrast medium, told from ContrastBolusAgent or the description
bone_kernel             reconstructed for bone or lung
too_thick               slices thicker than the network accepts
not_head                another part of the body
excluded_description    a word of ``selection.exclude_description``
======================= =============================================================================================

Score of an eligible series: 100, minus 8 for each mm between its median slice thickness and the preferred one, plus a
tenth of its coverage in mm (at most 20), plus 10 for a preferred word in the description, plus 5 for a body part that
names the head, plus 5 for a kernel that is known and soft, minus 100 where the geometry gate would refuse it. Equal
scores are decided by the lower SeriesNumber, then by the SeriesInstanceUID, so the choice never depends on the order of
arrival.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from dicom_node.dicom import geometry
from dicom_node.dicom.gate import GateStatus, check_stack
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.values import InstanceKind, SliceHeader

__all__ = ["SeriesVerdict", "choose_series"]

#: Beyond this tilt a series is a coronal or sagittal one and no tilted axial one, which is the gate's affair.
_NOT_AXIAL_DEG: Final = 45.0

#: Positions taken this many times on average make a perfusion or dynamic series; two may be an overlap or a resend.
_REPEATS: Final = 3.0

_SCREEN_WORDS: Final = ("dose", "patient_info", "patient info", "exam summary", "protocol", "results")

# "without contrast" in the languages of the makers' default protocols; cut out before words of contrast are looked for.
_NO_CONTRAST: Final = re.compile(
    r"(?<![^\W\d_])(non|no|without|w/o|wo|sans|ohne|sin|senza|pre)[\s_\-]*(iv[\s_\-]*)?(contrast\w*|kontrast\w*|km\b|c\+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What the choice says of one series.

    Attributes
    ----------
    series_instance_uid : str
        The series.
    eligible : bool
        It could be processed.
    chosen : bool
        It is the one to process; at most one of a study.
    score : float
        0 for a series that is not eligible.
    code : str
        See the table of this module.
    reason : str
        One sentence for a person, without patient data and without text of the header.
    """

    series_instance_uid: str
    eligible: bool
    chosen: bool
    score: float
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Series:
    """One series as the questions see it."""

    uid: str
    headers: tuple[SliceHeader, ...]
    images: tuple[SliceHeader, ...]
    rules: SelectionSettings

    @property
    def descriptions(self) -> str:
        """All different descriptions in lower case; usually one."""
        return " | ".join(sorted({header.series_description.lower() for header in self.headers}))

    @property
    def number(self) -> int:
        return min((h.series_number for h in self.headers if h.series_number is not None), default=2**31)

    def kinds(self) -> set[InstanceKind]:
        return {header.kind for header in self.headers}


@dataclass(frozen=True, slots=True)
class _No:
    code: str
    reason: str


_Question = Callable[[_Series], _No | None]


def choose_series(
    series: Mapping[str, Sequence[SliceHeader]],
    rules: SelectionSettings,
    *,
    thresholds: GeometrySettings | None = None,
) -> tuple[SeriesVerdict, ...]:
    """Judge every series of a study and choose one, or none.

    Parameters
    ----------
    series : mapping of SeriesInstanceUID to sequence of SliceHeader
        All instances of the study, in any order.
    rules : SelectionSettings
        Section ``[selection]`` of the configuration.
    thresholds : GeometrySettings, optional
        Section ``[geometry]``: a series that the gate would refuse is chosen only when nothing else is eligible, so
        that the refusal with its numbers reaches the user.

    Returns
    -------
    tuple of SeriesVerdict
        One per series: the chosen one first, then by falling score, then by SeriesNumber.
    """
    limits = thresholds if thresholds is not None else GeometrySettings()
    candidates: list[tuple[float, _Series]] = []
    verdicts: list[tuple[int, SeriesVerdict]] = []
    for uid, headers in series.items():
        images = tuple(header for header in headers if header.kind is InstanceKind.IMAGE)
        item = _Series(uid, tuple(headers), images, rules)
        no = _first_no(item)
        if no is None:
            candidates.append((round(_score(item, limits), 3), item))
        else:
            verdicts.append((item.number, SeriesVerdict(uid, False, False, 0.0, no.code, no.reason)))
    candidates.sort(key=lambda entry: (-entry[0], entry[1].number, entry[1].uid))
    ruled_out = [verdict for _, verdict in sorted(verdicts, key=lambda entry: (entry[0], entry[1].series_instance_uid))]
    return (*_rank(candidates), *ruled_out)


def _rank(candidates: Sequence[tuple[float, _Series]]) -> list[SeriesVerdict]:
    ranked = []
    for place, (score, item) in enumerate(candidates):
        if place == 0:
            others = len(candidates) - 1
            reason = (
                f"best of {others + 1} eligible series, score {score:.1f}" if others else "the only eligible series"
            )
            ranked.append(SeriesVerdict(item.uid, True, True, score, "chosen", reason))
        else:
            best = candidates[0]
            reason = f"score {score:.1f}, the chosen series {best[1].uid} has {best[0]:.1f}"
            ranked.append(SeriesVerdict(item.uid, True, False, score, "not_preferred", reason))
    return ranked


def _first_no(item: _Series) -> _No | None:
    for question in QUESTIONS:
        no = question(item)
        if no is not None:
            return no
    return None


# --- words -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _word_pattern(word: str) -> re.Pattern[str]:
    # Short words are whole words: "cta" is one, the beginning of "ctangle" is none. Letters only make a border, since
    # descriptions join words by underscores, digits and slashes.
    end = r"(?![^\W\d_])" if len(word) <= 3 else ""
    return re.compile(rf"(?<![^\W\d_]){re.escape(word.lower())}{end}")


def _matching_word(text: str, words: Sequence[str]) -> str | None:
    """Give the first of the configured words that the text holds; never a piece of the text itself."""
    return next((word for word in words if word and _word_pattern(word).search(text)), None)


# --- questions, in the order of QUESTIONS ------------------------------------------------------------------------


def _not_synthetic(item: _Series) -> _No | None:
    marked = sum(header.synthetic for header in item.headers)
    if not marked:
        return None
    return _No(
        "synthetic", f"{marked} of {len(item.headers)} instances are marked as synthetic; results are not processed"
    )


def _right_modality(item: _Series) -> _No | None:
    allowed = {modality.upper() for modality in item.rules.modalities}
    if any(header.modality in allowed for header in item.headers):
        return None
    return _No("not_ct", f"Modality is not {' or '.join(sorted(allowed))}")


def _has_images(item: _Series) -> _No | None:
    kinds = item.kinds()
    if InstanceKind.ENHANCED in kinds:
        return _No(
            "enhanced_not_processed", "Enhanced CT or multi-frame images are stored, but not processed by this version"
        )
    if item.images:
        return None
    if kinds == {InstanceKind.LOCALIZER}:
        return _No("localizer", f"localizer only ({len(item.headers)} instances)")
    if InstanceKind.SCREEN in kinds:
        words = " ".join(value.lower() for header in item.headers for value in header.image_type[2:])
        told = _matching_word(f"{words} {item.descriptions}", _SCREEN_WORDS)
        code = "dose_screen" if told else "secondary_capture"
        what = "dose or information screens" if told else "captured screens"
        return _No(code, f"{what}, no CT image ({len(item.headers)} instances of Secondary Capture)")
    return _No("not_ct", f"no CT image among {len(item.headers)} instances")


def _image_type_allowed(item: _Series) -> _No | None:
    excluded = tuple(value.upper() for value in item.rules.exclude_image_type)
    for value in excluded:
        count = sum(value in header.image_type for header in item.images)
        if count:
            code = "localizer" if value == "LOCALIZER" else "derived"
            return _No(code, f"ImageType of {count} of {len(item.images)} images holds {value}")
    return None


def _enough_slices(item: _Series) -> _No | None:
    count = len(item.images)
    if count >= item.rules.min_slices:
        return None
    noun = "image slice" if count == 1 else "image slices"
    return _No("too_few_slices", f"{count} {noun}, at least {item.rules.min_slices} needed")


def _axial(item: _Series) -> _No | None:
    placed = [header for header in item.images if geometry.has_geometry(header)]
    tilts = []
    for header in placed:
        cosines = header.image_orientation_patient or ()
        if geometry.orientation_defect(cosines) < 0.5:
            tilts.append(geometry.tilt_deg(geometry.normal_of(cosines)))
    # Without any position the gate refuses and says so. The median decides, not one localizer that calls itself axial.
    if not tilts or float(np.median(tilts)) <= _NOT_AXIAL_DEG:
        return None
    return _No("orientation", f"slices are {float(np.median(tilts)):.0f} deg from the transverse plane")


def _positions_taken_once(item: _Series) -> _No | None:
    positions = [header.image_position_patient for header in item.images if header.image_position_patient is not None]
    different = {tuple(round(value, 1) for value in position) for position in positions}
    if not different or len(positions) < _REPEATS * len(different):
        return None
    return _No("perfusion", f"{len(positions)} images at {len(different)} positions: each was imaged several times")


def _no_contrast(item: _Series) -> _No | None:
    if item.rules.allow_contrast:
        return None
    marked = sum(header.contrast_bolus for header in item.images)
    if marked:
        return _No("contrast", f"ContrastBolusAgent is set in {marked} of {len(item.images)} images")
    word = _matching_word(_NO_CONTRAST.sub(" ", item.descriptions), item.rules.contrast_description)
    return None if word is None else _No("contrast", f"SeriesDescription holds '{word}'")


def _soft_kernel(item: _Series) -> _No | None:
    sharp = sum(_is_sharp(header.convolution_kernel, item.rules.exclude_kernel) for header in item.images)
    if 2 * sharp > len(item.images):
        return _No("bone_kernel", f"ConvolutionKernel of {sharp} of {len(item.images)} images is one for bone or lung")
    word = _matching_word(item.descriptions, item.rules.bone_description)
    return None if word is None else _No("bone_kernel", f"SeriesDescription holds '{word}'")


@lru_cache(maxsize=1024)
def _is_sharp(kernel: str, patterns: tuple[str, ...]) -> bool:
    # Siemens writes two values, the kernel and its strength; any that matches counts.
    values = [value.strip() for value in kernel.upper().split("\\")]
    return any(re.search(pattern, value, re.IGNORECASE) for pattern in patterns for value in values)


def _thin_enough(item: _Series) -> _No | None:
    thickness = _median_thickness(item)
    if thickness is None or thickness <= item.rules.max_thickness_mm:
        return None
    return _No("too_thick", f"median slice thickness {thickness:g} mm, at most {item.rules.max_thickness_mm:g} mm")


def _head(item: _Series) -> _No | None:
    allowed = {part.upper() for part in item.rules.body_parts}
    # Some makers write "HEAD NECK" or "HEADNECK": the beginning decides, and the empty text allows only the empty text.
    begins = tuple(part for part in allowed if part)
    fitting = sum(_is_allowed_part(header.body_part_examined, allowed, begins) for header in item.images)
    if 2 * fitting < len(item.images):
        return _No(
            "not_head", f"BodyPartExamined of {len(item.images) - fitting} of {len(item.images)} images is no head"
        )
    if _matching_word(item.descriptions, item.rules.prefer_description) is not None:
        return None
    word = _matching_word(item.descriptions, item.rules.other_body_description)
    return None if word is None else _No("not_head", f"SeriesDescription holds '{word}'")


def _is_allowed_part(part: str, allowed: set[str], begins: tuple[str, ...]) -> bool:
    return part in allowed or (bool(begins) and part.startswith(begins))


def _description_allowed(item: _Series) -> _No | None:
    word = _matching_word(item.descriptions, item.rules.exclude_description)
    return None if word is None else _No("excluded_description", f"SeriesDescription holds '{word}'")


#: The questions, cheapest and surest first.
QUESTIONS: Final[tuple[_Question, ...]] = (
    _not_synthetic,
    _right_modality,
    _has_images,
    _image_type_allowed,
    _enough_slices,
    _axial,
    _positions_taken_once,
    _no_contrast,
    _soft_kernel,
    _thin_enough,
    _head,
    _description_allowed,
)


# --- score -------------------------------------------------------------------------------------------------------


def _median_thickness(item: _Series) -> float | None:
    values = [header.slice_thickness_mm for header in item.images if header.slice_thickness_mm is not None]
    return float(np.median(values)) if values else None


def _score(item: _Series, thresholds: GeometrySettings) -> float:
    # Pixels are not read for a score: slices at one position are taken for copies here, and the gate looks later.
    outcome = check_stack(item.headers, thresholds, pixel_digest=lambda header: "")
    score = 100.0 if outcome.status is not GateStatus.REFUSE else 0.0
    thickness = _median_thickness(item)
    if thickness is not None:
        score -= 8.0 * abs(thickness - item.rules.preferred_thickness_mm)
    covered = outcome.figures.get("coverage_mm")
    if isinstance(covered, float):
        score += min(covered / 10.0, 20.0)
    if _matching_word(item.descriptions, item.rules.prefer_description):
        score += 10.0
    if any(header.body_part_examined for header in item.images):
        score += 5.0
    if all(header.convolution_kernel for header in item.images):
        score += 5.0
    return score
