"""What a set of phantom patients holds: centres, seeds, sex, geometry, lesion; free plans and one like the paper's.

A plan costs nothing to make and decides everything about the arrays, so a set can be counted, sized and compared with
table 1 of JEIT250643 before any case is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from train.data.phantom import CENTRES
from train.data.phantom_lesions import KIND_SHARES


class PhantomSetError(ValueError):
    """A set of phantoms cannot be planned or written.

    Attributes
    ----------
    code : str
        ``centre``, ``lesion``, ``count``, ``format``, ``manifest``, ``disk_space``, ``disk_full``, ``disk`` or
        ``worker``.
    reason : str
        For people, with the figures that matter.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type[PhantomSetError], tuple[str, str]]:
        """Exceptions come back from worker processes by pickle, which would drop the second argument."""
        return PhantomSetError, (self.code, self.reason)


@dataclass(frozen=True, slots=True)
class SetGeometry:
    """Geometry of a case: see `generate_case`."""

    matrix: int = 256
    fov_mm: float = 230.4
    n_slices: int = 24
    slice_mm: float = 5.0


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One patient to be made.

    Attributes
    ----------
    centre, seed
        Fix the patient, see `generate_case`.
    geometry
        Of the scan.
    lesion
        "random", "none" or a value of `LesionKind`.
    sex
        "M", "F" or "O" (unstated), as in Patient's Sex (0010,0040). It is a label: the anatomy has no sex.
    """

    centre: str
    seed: int
    geometry: SetGeometry
    lesion: str = "random"
    sex: str = "O"

    @property
    def patient(self) -> str:
        """Name of the patient's file or folder."""
        return f"{self.centre}-{self.seed:06d}"


@dataclass(frozen=True, slots=True)
class Table1Row:
    """One row of table 1 of JEIT250643 and the phantom centre that stands for it.

    Attributes
    ----------
    centre
        "A" for clinical data 1, "B" for clinical data 2.
    men, women
        Patients.
    mean_age_years
        As printed.
    train_images, test_images
        Slices of the paper's split, which is by slice and not by patient.
    slice_mm
        Ours: thickness that covers the brain with the paper's mean number of slices a patient, as far as the model's
        limit of 8 mm allows.
    """

    centre: str
    men: int
    women: int
    mean_age_years: float
    train_images: int
    test_images: int
    slice_mm: float

    @property
    def patients(self) -> int:
        """Men and women."""
        return self.men + self.women

    @property
    def images(self) -> int:
        """Slices of both parts of the paper's split."""
        return self.train_images + self.test_images


TABLE_1: Mapping[str, Table1Row] = MappingProxyType(
    {
        "A": Table1Row("A", 148, 80, 58.0, 6222, 1556, 4.0),
        "B": Table1Row("B", 365, 270, 64.0, 6533, 1634, 8.0),
    }
)

#: What a set like table 1 does not share with the paper; printed and written wherever such a set is described.
TABLE_1_UNMATCHED = (
    "the split: the paper's is 80/20 by slice, ours is by patient, so the training and test slices differ",
    "the mean age is that of the centre's distribution, met on average and not to the year",
    "sex is a label only: the phantom's anatomy has none",
    "slice thickness and stroke mix are not in table 1 but ours (A 4 mm; B 8 mm, which leaves out part of the head)",
)


def check_plan(centres: Sequence[str], lesion: str) -> None:
    """Refuse unknown centres and lesions before work starts.

    Raises
    ------
    PhantomSetError
        ``centre`` or ``lesion``.
    """
    unknown = sorted(set(centres) - set(CENTRES))
    if unknown or not centres:
        raise PhantomSetError("centre", f"centre must be one of {sorted(CENTRES)}, not {unknown or 'nothing'}")
    if len(set(centres)) != len(centres):
        raise PhantomSetError("centre", f"a centre is named twice: {' '.join(centres)}")
    words = ["random", *(str(kind) for kind in KIND_SHARES)]
    if lesion not in words:
        raise PhantomSetError("lesion", f"lesion must be one of {', '.join(words)}, not {lesion!r}")


def plan_patients(
    centres: Sequence[str], n: int, seed: int, *, geometry: SetGeometry | None = None, lesion: str = "random"
) -> tuple[PatientPlan, ...]:
    """Plan `n` patients of each centre, with seeds `seed`, `seed` + 1, ...

    Raises
    ------
    PhantomSetError
        ``centre``, ``lesion``, or ``count`` when `n` is not positive or the seed negative.
    """
    check_plan(centres, lesion)
    if n < 1 or seed < 0:
        raise PhantomSetError("count", f"a set has at least one case and a seed from 0 on, not {n} from {seed}")
    shape = geometry or SetGeometry()
    return tuple(PatientPlan(centre, seed + index, shape, lesion) for centre in centres for index in range(n))


def plan_like_table1(seed: int, *, matrix: int = 256, lesion: str = "random") -> tuple[PatientPlan, ...]:
    """Plan a set of the size of the paper's: 228 patients of A and 635 of B, its sex mix and its number of slices.

    Men and women and the patients with one slice more are drawn by the seed; their numbers are exactly the paper's.
    `TABLE_1_UNMATCHED` says what differs.

    Raises
    ------
    PhantomSetError
        ``lesion``, or ``count`` when the seed is negative.
    """
    check_plan(list(TABLE_1), lesion)
    if seed < 0:
        raise PhantomSetError("count", f"the seed starts at 0, not {seed}")
    plans: list[PatientPlan] = []
    for row in TABLE_1.values():
        rng = np.random.default_rng([seed, CENTRES[row.centre].index, 1])
        sexes = rng.permutation(["M"] * row.men + ["F"] * row.women)
        fewest, left_over = divmod(row.images, row.patients)
        slices = rng.permutation([fewest + 1] * left_over + [fewest] * (row.patients - left_over))
        for index in range(row.patients):
            shape = SetGeometry(matrix=matrix, n_slices=int(slices[index]), slice_mm=row.slice_mm)
            plans.append(PatientPlan(row.centre, seed + index, shape, lesion, str(sexes[index])))
    return tuple(plans)
