"""The whole node with companions and notes switched on: what reaches the PACS beside the images.

Left out: the objects themselves (`derive/companions`, `tests/peers/test_companions`) and refusing peers
(`deliver/test_outbox_companions`, `test_notes`).
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SegmentationStorage,
)

from tests.dicom_node.running_node import Node, Pacs, make_node, send

COMPANIONS = (
    SegmentationStorage,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
)
OUTPUT = """
[output]
companions = ["seg", "sr", "gsps"]
not_processed_note = "sr"
not_processed_wait_s = 1.0
"""


def _renamed(paths: list[Path], folder: Path) -> list[Path]:
    """The same images as another study."""
    folder.mkdir()
    made = []
    for number, path in enumerate(paths):
        ds = copy.deepcopy(dcmread(path))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, f"{getattr(ds, keyword)}.9"[-64:])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        made.append(folder / f"{number:04d}.dcm")
        ds.save_as(made[-1], enforce_file_format=True)
    return made


def _received(pacs: Pacs, folder: Path) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for path in pacs.write_to(folder):
        ds = dcmread(path)
        found.setdefault(str(ds.SOPClassUID), []).append(ds)
    return found


@pytest.mark.slow
def test_companions_follow_the_images_a_late_slice_withdraws_them_and_a_refusal_is_told(
    tmp_path: Path, tiny_bundle: Path, phantom_ct: Path
):
    source = sorted(phantom_ct.rglob("*.dcm"))
    refused = _renamed(source[:8], tmp_path / "refused")
    pacs = Pacs(COMPANIONS)
    node: Node = make_node(tmp_path / "node", pacs, tiny_bundle)
    node.config.write_text(node.config.read_text() + OUTPUT)
    with pacs.listening(), node.running():
        send(node, source[:-1])
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the delivery")
        first = _received(pacs, tmp_path / "first")
        send(node, refused)
        node.wait_for(lambda: node.status()["notes"]["DELIVERED"] == 1, "the note")
        send(node, source[-1:])
        node.wait_for(lambda: len(pacs.files) == len(first[MRImageStorage]) + 4 + len(source) + 4 + 3, "the new result")
        node.wait_for(lambda: node.states() == ["DELIVERED", "REFUSED"], "the second delivery")
    assert set(pacs.arrivals.values()) == {1}
    images = first.pop(MRImageStorage)
    assert {uid: len(found) for uid, found in first.items()} == dict.fromkeys(COMPANIONS[:3], 1)
    every = _received(pacs, tmp_path / "every")
    (note,) = [ds for ds in every[Comprehensive3DSRStorage] if "NOT PROCESSED" in ds.SeriesDescription]
    assert note.StudyInstanceUID == dcmread(refused[0]).StudyInstanceUID
    old = {ds.SeriesInstanceUID for ds in images}
    withdrawn = [
        str(series.SeriesInstanceUID)
        for ds in every[KeyObjectSelectionDocumentStorage]
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    ]
    assert old <= set(withdrawn)
    masks = every[SegmentationStorage]
    assert len({ds.SeriesInstanceUID for ds in masks}) == 2
    assert {ds.StudyInstanceUID for ds in masks} == {images[0].StudyInstanceUID}
