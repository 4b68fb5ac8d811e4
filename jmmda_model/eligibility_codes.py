"""Every code of the eligibility check: what was seen, what follows, which limits decide, which figures it leaves.

Standard library only, so that labels, reports and settings may look a flag up without loading an imaging library. The
check itself is `jmmda_model.imaging.eligibility`; ``jmmda_model.imaging.eligibility_page`` writes docs/eligibility.md
from these lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

__all__ = ["CODES", "FIGURES", "EligibilityCode", "EligibilityLimits", "is_refusal", "plain_words"]


def _limit(default: float, meaning: str, *, most: float) -> float:
    """Field of `EligibilityLimits` with its meaning and the largest value that makes sense."""
    value: float = field(default=default, metadata={"meaning": meaning, "most": most})
    return value


@dataclass(frozen=True, slots=True)
class EligibilityLimits:
    """What a site may have reason to change; section ``[eligibility]`` of node.toml holds the same names.

    What tells a brain from another body part or an object is not among them: no site has another anatomy.
    """

    min_brain_ml: float = _limit(
        250.0,
        "A complete brain is at least this large, in ml; shorter stacks need proportionally less. A newborn has"
        " 350 ml.",
        most=1_000.0,
    )
    max_brain_ml: float = _limit(
        2500.0,
        "What bone encloses is at most this large, in ml. The largest heads of adults hold 2000 ml.",
        most=10_000.0,
    )
    min_brain_height_mm: float = _limit(
        60.0,
        "A brain that the scan cuts off above or below must be covered over at least this height, in mm: half of an"
        " adult's. 0: any.",
        most=150.0,
    )
    max_cut_share: float = _limit(
        0.15,
        "Share of the brain's outline that may run into the edge of the image; 0.15 of it is 7 cm of an adult's 48.",
        most=1.0,
    )
    usual_min_ml: float = _limit(900.0, "A complete brain smaller than this is flagged, in ml.", most=2_500.0)
    usual_max_ml: float = _limit(1900.0, "A complete brain larger than this is flagged, in ml.", most=10_000.0)
    open_skull_cm2: float = _limit(
        12.0,
        "A gap of the skull vault from this area on is flagged, in cm2; burr holes and sutures stay below.",
        most=500.0,
    )
    hyperdense_ml: float = _limit(
        10.0,
        "A connected part of the brain as dense as fresh blood is flagged from this volume on, in ml; venous sinuses"
        " and tentorium stay below.",
        most=500.0,
    )
    metal_hu: float = _limit(
        2500.0, "Denser than any bone: metal, in HU. Lower it for a scanner that cuts off earlier.", most=30_000.0
    )
    metal_ml: float = _limit(0.02, "Metal near the brain is flagged from this volume on, in ml.", most=100.0)
    child_below_years: float = _limit(
        16.0, "A patient younger than this is flagged as a child, in years. The model has seen adults.", most=150.0
    )


@dataclass(frozen=True, slots=True)
class EligibilityCode:
    """One code.

    Attributes
    ----------
    code : str
        Stable, lower case; stored in results and records.
    refuses : bool
        Whether it ends in ``REFUSED``; else it is a quality flag and the series is processed.
    seen : str
        What the check found, for the administrator.
    words : str
        One plain sentence for the radiologist, ASCII.
    advice : str
        What to do.
    limits : tuple of str
        Fields of `EligibilityLimits` that decide.
    figures : tuple of str
        Figures that say by how much.
    """

    code: str
    refuses: bool
    seen: str
    words: str
    advice: str
    limits: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


_ALL: Final = (
    EligibilityCode(
        "half_brain",
        True,
        "a large part of the brain is not in the images: its outline runs into the edge of the field of view, what bone"
        " encloses is half a head wide, or the scan covers too little of its height",
        "Only a part of the brain is in the images.",
        "Reconstruct the whole head, or send the series that covers it.",
        ("max_cut_share", "min_brain_height_mm"),
        ("cut_share", "roundness", "open_share", "brain_height_mm"),
    ),
    EligibilityCode(
        "no_brain",
        True,
        "no brain: an empty or uniformly filled skull, an object, another body part, pixels that are no HU",
        "No brain was found.",
        "Check what was scanned and sent. If it is a head, send the figures to the maintainers.",
        ("min_brain_ml", "max_brain_ml"),
        (
            "volume_ml",
            "largest_section_cm2",
            "median_hu",
            "spread_hu",
            "fat_share",
            "skull_hu",
            "open_share",
            "roundness",
            "irregularity",
            "section_ratio",
        ),
    ),
    EligibilityCode(
        "open_skull",
        False,
        "a gap in the vault: craniotomy without its flap, craniectomy, trauma, a wide fontanelle",
        "Part of the skull vault is missing; the brain's edge under it is estimated.",
        "Look at the edge of the result under the gap.",
        ("open_skull_cm2",),
        ("defect_ml", "vault_gap_cm2"),
    ),
    EligibilityCode(
        "hyperdense",
        False,
        "a connected part of 55 to 100 HU inside the brain",
        "A large hyperdense area (blood?) is present; the model was not made for haemorrhage.",
        "Read the CT. The synthetic image says nothing about blood.",
        ("hyperdense_ml",),
        ("hyperdense_ml",),
    ),
    EligibilityCode(
        "metal",
        False,
        "voxels denser than bone beside or inside the brain, or much of them in a slice with brain",
        "Metal with possible streaks is near the brain; nearby values are unreliable.",
        "Distrust bright and dark bands in the slices concerned.",
        ("metal_hu", "metal_ml"),
        ("metal_near_ml", "metal_ml"),
    ),
    EligibilityCode(
        "child",
        False,
        "an age below the limit; where the header has no age, a head that is small and has a thin skull",
        "The patient is a child or has a child's skull; the model was made for adults.",
        "Judge with caution, or keep children out by `min_patient_age_years` of `[selection]`.",
        ("child_below_years",),
        ("age_years", "brain_length_mm", "skull_mm"),
    ),
    EligibilityCode(
        "volume",
        False,
        "a complete brain of unusual volume",
        "The brain volume is unusual for an adult.",
        "Look at the montage or overlay: is the outline that of the brain?",
        ("usual_min_ml", "usual_max_ml"),
        ("volume_ml",),
    ),
    EligibilityCode(
        "cut_off_scan",
        False,
        "the scan ends inside the brain, above or below",
        "The scan ends inside the brain; what is not covered stays unseen.",
        "None, if the missing part does not matter.",
        (),
        ("brain_height_mm",),
    ),
    EligibilityCode(
        "cut_off_side",
        False,
        "the brain's outline runs into the edge of the image over a short way",
        "The field of view cuts off a part of the brain at its side.",
        "Reconstruct with a larger field of view.",
        ("max_cut_share",),
        ("cut_share",),
    ),
    EligibilityCode(
        "turned_head",
        False,
        "the long axis of the head runs from side to side in the patient's coordinates: the orientation in the header"
        " or the patient's posture is unusual",
        "The head lies turned against the orientation in the header; sides may be wrong in CT and result.",
        "Check PatientPosition and ImageOrientationPatient of the CT.",
        (),
        ("turn_deg", "roundness"),
    ),
)

#: All codes, refusals first, each group in the order in which they are reported.
CODES: Final[Mapping[str, EligibilityCode]] = MappingProxyType({code.code: code for code in _ALL})

#: What the figures mean. Those of the skull are missing where no section of the brain is large enough to measure.
FIGURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "volume_ml": "volume of what was found, from true slice positions",
        "median_hu": "its median",
        "largest_section_cm2": "its largest section",
        "slices_with_brain": "slices that hold some of it",
        "brain_height_mm": "its extent along the normal",
        "threshold_hu": "bone threshold of the mask",
        "enclosed_ml": "volume that bone encloses, before anything was cut off or added",
        "defect_ml": "volume that the mask gave back under a gap of the vault",
        "spread_hu": "distance of the 1st and 99th percentile inside, of means over 6 mm: grey and white matter and"
        " fluid differ, a filling does not",
        "hyperdense_ml": "largest connected part of 55 to 100 HU, of means over 6 mm",
        "metal_near_ml": "metal within 20 mm of the brain, in its slices",
        "metal_ml": "metal anywhere in the slices with brain",
        "skull_hu": "density of the bone around the sections: median of the largest value in each direction",
        "skull_mm": "median thickness of the vault",
        "open_share": "share of directions without bone around the brain, mean of the vault's sections",
        "cut_share": "share of directions that reach the edge of the image before any bone or air, mean of sections",
        "vault_gap_cm2": "area of the gaps of the vault",
        "roundness": "short over long axis of the sections inside the bone; 1 is a circle, half a head has 0.42",
        "brain_length_mm": "long axis of the sections inside the bone",
        "turn_deg": "angle of the long axis to the patient's front-to-back axis, 0 to 90",
        "irregularity": "mean deviation of the inner outline of the bone from an ellipse, as a share of its radius",
        "fat_share": "share of fat (-150 to -30 HU) in the sections inside the bone",
        "section_ratio": "smallest over largest section; 1 is a cylinder",
        "age_years": "age of the patient as the header has it",
    }
)


def is_refusal(flag: str) -> bool:
    """Whether a flag means that the series must not be processed."""
    return flag in CODES and CODES[flag].refuses


def plain_words(flags: Iterable[str]) -> tuple[str, ...]:
    """Return the sentence of each flag; one that is not listed (of an older or newer version) speaks for itself.

    Examples
    --------
    >>> plain_words(["volume"])
    ('The brain volume is unusual for an adult.',)
    """
    return tuple(CODES[flag].words if flag in CODES else f"{flag}." for flag in flags)
