"""Judge what came back to the miniature PACS: labels, geometry, laterality, and figures against the phantom's truth.

Every figure here is from a digital phantom and is named so wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import FileDataset

from dicom_node.dicom.labels import LabelFacts, missing_marks
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.montage import MontageRow, choose_slices, ct_row, mask_row, synthetic_row, write_montage
from dicom_node.synthesize.facts import bundle_facts
from jmmda_model.bundle import load_bundle

if TYPE_CHECKING:
    from train.data.phantom import PhantomCase

#: Stored value of the derived series that stands for 1.0 (spec: fraction of three times the brain median).
_FULL_SCALE = 4095.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, and what was seen."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks, the figures on the phantom, and the UIDs of source and result."""

    checks: tuple[Check, ...]
    metrics: dict[str, float]
    uids: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class _Pair:
    """The result and its CT, slice by slice, in the phantom's order (lowest slice first)."""

    results: tuple[FileDataset, ...]
    sources: tuple[SliceHeader, ...]
    result_paths: tuple[Path, ...]

    def pixels_on(self, case: PhantomCase) -> npt.NDArray[np.uint16]:
        """Stored values on the grid of the phantom, each image at the height where it lies; zero where none came."""
        pixels = np.zeros(case.ct_hu.shape, dtype=np.uint16)
        for ds in self.results:
            plane = int(np.argmin(np.abs(case.positions_mm[:, 2] - float(ds.ImagePositionPatient[2]))))
            pixels[plane] = ds.pixel_array
        return pixels


def _pair(source: Path, received: Path) -> _Pair:
    """Bring result and source together by the source reference that each result carries."""
    headers = {header.sop_instance_uid: header for header in map(read_header, source.rglob("*.dcm"))}
    found = [(dcmread(path), path) for path in received.rglob("*.dcm")]
    found.sort(key=lambda one: float(one[0].ImagePositionPatient[2]))
    return _Pair(
        results=tuple(ds for ds, _ in found),
        sources=tuple(headers[ds.SourceImageSequence[0].ReferencedSOPInstanceUID] for ds, _ in found),
        result_paths=tuple(path for _, path in found),
    )


def _geometry_agrees(pair: _Pair) -> bool:
    return all(
        tuple(map(float, ds.ImagePositionPatient)) == header.image_position_patient
        and tuple(map(float, ds.ImageOrientationPatient)) == header.image_orientation_patient
        and ds.FrameOfReferenceUID == header.frame_of_reference_uid
        and ds.StudyInstanceUID == header.study_instance_uid
        for ds, header in zip(pair.results, pair.sources, strict=True)
    )


def _missing_marks(paths: Sequence[Path], bundle: str) -> set[str]:
    facts = LabelFacts.from_rules(bundle_facts(load_bundle(bundle)), OutputSettings())
    return {mark for path in paths for mark in missing_marks(path.read_bytes(), facts)}


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]) -> float:
    return float(np.corrcoef(a[where], b[where])[0, 1])


def _truth(case: PhantomCase, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The phantom's DWI on the scale of the output: fraction of three times the brain median."""
    scaled = np.clip(image / (3.0 * np.median(case.dwi[case.brain])), 0.0, 1.0)
    return np.asarray(scaled, dtype=np.float64)


def _metrics(case: PhantomCase, synthetic: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> dict[str, float]:
    from train.metrics import ScoreHistogram, mse, psnr_db

    brain = case.brain & mask
    error = mse(synthetic, _truth(case, case.dwi_clean), brain)
    overlap = 2.0 * np.count_nonzero(brain) / (np.count_nonzero(case.brain) + np.count_nonzero(mask))
    return {
        "phantom_lesion_ml": round(case.lesion_ml, 2),
        "phantom_lesion_hu_drop": round(case.hu_drop, 2),
        "phantom_lesion_auc": round(ScoreHistogram.of(synthetic, case.lesion, brain).auc(), 4),
        "phantom_brain_mse": round(error, 5),
        "phantom_brain_psnr_db": round(psnr_db(error), 2),
        "phantom_mask_dice": round(float(overlap), 4),
    }


def _draw(path: Path, case: PhantomCase, pixels: npt.NDArray[np.uint16], mask: npt.NDArray[np.bool_]) -> None:
    hu = case.ct_hu.astype(np.float32)
    weight = case.lesion.sum(axis=(1, 2)) + 1e-3 * mask.sum(axis=(1, 2))
    used = sorted(choose_slices([float(value > 1.0) for value in weight], 8))
    write_montage(
        path,
        [
            ct_row(hu, "phantom CT (W80 L40)"),
            mask_row(hu, mask),
            synthetic_row(pixels),
            MontageRow("phantom truth DWI", _truth(case, case.dwi), (0.0, 3000 / _FULL_SCALE), outline=case.lesion),
        ],
        used,
        title="Digital phantom, not a patient. SYNTHETIC DWI computed from CT - not MR, not for diagnosis. "
        "Outlined in the bottom row: the phantom's lesion.",
    )


def judge(case: PhantomCase, source: Path, received: Path, montage: Path, *, loop_guard: bool, bundle: str) -> Verdict:
    """Check the result of a demonstration, measure it against the phantom, and draw the montage.

    Parameters
    ----------
    case : PhantomCase
        The phantom patient, with its truth.
    source, received : pathlib.Path
        The CT study that was sent, and the folder of the miniature PACS.
    montage : pathlib.Path
        PNG file to write.
    loop_guard : bool
        Whether the node left its own result alone when it came back.
    bundle : str
        The bundle that the node ran, for the label check.
    """
    pair = _pair(source, received)
    series = {str(ds.SeriesInstanceUID) for ds in pair.results}
    marks = _missing_marks(pair.result_paths, bundle)
    pixels = pair.pixels_on(case)
    synthetic = pixels / _FULL_SCALE
    # The derived pixels are zero outside the mask, apart from the watermark; the phantom's head keeps clear of it.
    mask = _mask_of(pixels, case.brain)
    truth = _truth(case, case.dwi_clean)
    right_way = _correlation(synthetic, truth, case.brain)
    mirrored = _correlation(synthetic, truth[:, :, ::-1], case.brain)
    slices = case.ct_hu.shape[0]
    checks = (
        Check("one synthetic series", len(series) == 1, f"{len(series)} series"),
        Check("one instance per CT slice", len(pair.results) == slices, f"{len(pair.results)} of {slices}"),
        Check(
            "every mandatory mark", not marks, "all present" if not marks else f"missing: {', '.join(sorted(marks))}"
        ),
        Check("geometry, frame of reference and study of the CT", _geometry_agrees(pair), "compared slice by slice"),
        Check(
            "left is left",
            right_way > mirrored,
            f"r {right_way:.3f} against the truth, {mirrored:.3f} against its mirror image",
        ),
        Check("own result left alone when it came back", loop_guard, "no second series"),
    )
    metrics = _metrics(case, synthetic, mask)
    _draw(montage, case, pixels, mask)
    first = pair.sources[0]
    uids = {
        "study_instance_uid": first.study_instance_uid,
        "ct_series_instance_uid": first.series_instance_uid,
        "synthetic_series_instance_uid": next(iter(series), ""),
    }
    return Verdict(checks, metrics, uids)


def _mask_of(pixels: npt.NDArray[np.uint16], head: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Brain mask as it shows in the result: non-zero pixels near the head, without the watermark in the corner."""
    from scipy import ndimage

    near = ndimage.binary_dilation(head.any(axis=0), iterations=12)
    return np.asarray((pixels > 0) & near, dtype=np.bool_)
