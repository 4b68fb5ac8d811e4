"""Left stays left: a phantom lesion on the patient's left is bright on the patient's left in what Orthanc holds.

The side is read from the derived objects alone, by ImagePositionPatient and ImageOrientationPatient, after the whole
path (receive, trained network, derive, C-STORE, Orthanc), for every way a head can lie in the scanner.
Left out: how well the lesion is drawn, which is measured over many phantoms in training.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from tests.peers.orthanc import ROUTE_CT_SERIES, Orthanc, running_orthanc

if TYPE_CHECKING:
    from train.data.phantom import PhantomCase

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("orthanc")]

ORIENTATIONS = ("HFS", "FFS", "HFP", "FFP", "HFS_FLIPPED")


def _lesion_contrast(files: list[bytes], case: PhantomCase) -> float:
    """Mean stored value where the phantom's lesion lies minus that at the mirrored place, looked up by LPS position."""
    origin = case.positions_mm
    _, row_mm, column_mm = case.spacing_mm
    lesion: list[float] = []
    mirrored: list[float] = []
    for ds in (pydicom.dcmread(io.BytesIO(file)) for file in files):
        pixels = ds.pixel_array.astype(float)
        rows, cols = np.indices(pixels.shape)
        along_row, along_column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        spacing = [float(value) for value in ds.PixelSpacing]
        steps = cols[..., None] * spacing[1] * along_row + rows[..., None] * spacing[0] * along_column
        x, y, z = np.moveaxis(np.array(ds.ImagePositionPatient, dtype=float) + steps, -1, 0)
        plane = int(np.argmin(np.abs(origin[:, 2] - z.flat[0])))
        row = np.rint((y - origin[plane, 1]) / row_mm).astype(int)
        for side, found in ((1, lesion), (-1, mirrored)):
            column = np.rint((side * x - origin[plane, 0]) / column_mm).astype(int)
            inside = (row >= 0) & (row < case.lesion.shape[1]) & (column >= 0) & (column < case.lesion.shape[2])
            hit = np.zeros(pixels.shape, dtype=bool)
            hit[inside] = case.lesion[plane, row[inside], column[inside]]
            found.extend(pixels[hit & (pixels > 0)])
    return float(np.mean(lesion) - np.mean(mirrored))


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Send the same left-sided phantom in every orientation to one node, and measure each result."""
    from train.data.phantom import generate_case
    from train.data.phantom_dicom import write_ct_series

    case = generate_case(22, "A", matrix=256, lesion="mca_whole", side="left")
    folder = tmp_path_factory.mktemp("laterality")
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    node = ThrowawayNode(folder / "node", ThrowawaySettings((pacs,), device="cpu"))
    studies = {orientation: str(generate_uid()) for orientation in ORIENTATIONS}
    with (
        running_orthanc(
            folder / "pacs", http_port=free_port(), dicom_port=pacs.port, node_port=node.port, lua=ROUTE_CT_SERIES
        ) as orthanc,
        node.running(),
    ):
        for orientation, study in studies.items():
            write_ct_series(case, folder / orientation, orientation=orientation, study_instance_uid=study)
            orthanc.upload(folder / orientation)
        measured = {one: _lesion_contrast(_result_of(orthanc, study), case) for one, study in studies.items()}
        assert len(orthanc.series_of_modality("MR")) == len(ORIENTATIONS)
    return measured


def _result_of(orthanc: Orthanc, study_instance_uid: str) -> list[bytes]:
    def complete(pacs: Orthanc) -> str | None:
        for series in pacs.series_of_modality("MR"):
            instances = pacs.get(f"/series/{series}")["Instances"]
            study = pacs.get(f"/series/{series}/study")["MainDicomTags"]["StudyInstanceUID"]
            if study == study_instance_uid and len(instances) == 24:
                return series
        return None

    return orthanc.files_of_series(orthanc.wait_for(f"result of {study_instance_uid}", complete, 240))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_left_sided_lesion_is_bright_on_the_left(contrasts: dict[str, float], orientation: str) -> None:
    assert contrasts[orientation] > 60, contrasts


def test_all_orientations_show_the_same_picture(contrasts: dict[str, float]) -> None:
    values = list(contrasts.values())
    assert max(values) - min(values) < 0.1 * max(values), contrasts
