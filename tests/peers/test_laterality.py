"""Left stays left: a phantom lesion on the patient's left is bright on the patient's left in what Orthanc holds.

The side is read from the derived objects alone, by ImagePositionPatient and ImageOrientationPatient, after the whole
path (receive, trained network, derive, C-STORE, Orthanc), for every way a head can lie in the scanner.
Left out: how well the lesion is drawn, which is measured over many phantoms in training.
"""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from tests.peers.orthanc import ROUTE_CT_SERIES, Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("orthanc")]

ORIENTATIONS = ("HFS", "FFS", "HFP", "FFP", "HFS_FLIPPED")


def _side_contrast(files: list[bytes]) -> float:
    """Mean stored value of brain on the patient's left minus that on the right, in stored levels."""
    left: list[float] = []
    right: list[float] = []
    for ds in (pydicom.dcmread(io.BytesIO(file)) for file in files):
        pixels = ds.pixel_array.astype(float)
        rows, cols = np.indices(pixels.shape)
        cosines = np.array(ds.ImageOrientationPatient, dtype=float)
        x_mm = (
            float(ds.ImagePositionPatient[0])
            + cosines[0] * float(ds.PixelSpacing[1]) * cols
            + cosines[3] * float(ds.PixelSpacing[0]) * rows
        )
        brain = (pixels > 0) & (pixels < 4095)
        left.extend(pixels[brain & (x_mm > 8)])
        right.extend(pixels[brain & (x_mm < -8)])
    return float(np.mean(left) - np.mean(right))


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Send the same left-sided phantom in every orientation to one node, and measure each result."""
    from train.data.phantom import generate_case
    from train.data.phantom_dicom import write_ct_series

    case = generate_case(21, "A", matrix=256, lesion="mca_whole", side="left")
    folder = tmp_path_factory.mktemp("laterality")
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    node = ThrowawayNode(folder / "node", ThrowawaySettings((pacs,), device="cpu"))
    measured: dict[str, float] = {}
    with (
        running_orthanc(
            folder / "pacs", http_port=free_port(), dicom_port=pacs.port, node_port=node.port, lua=ROUTE_CT_SERIES
        ) as orthanc,
        node.running(),
    ):
        for orientation in ORIENTATIONS:
            write_ct_series(case, folder / orientation, orientation=orientation)
            orthanc.upload(folder / orientation)
        for orientation in ORIENTATIONS:
            study = pydicom.dcmread(next((folder / orientation).glob("*.dcm"))).StudyInstanceUID
            measured[orientation] = _side_contrast(_result_of(orthanc, study))
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
    assert contrasts[orientation] > 40, contrasts


def test_all_orientations_show_the_same_picture(contrasts: dict[str, float]) -> None:
    values = list(contrasts.values())
    assert max(values) - min(values) < 0.25 * max(values), contrasts
