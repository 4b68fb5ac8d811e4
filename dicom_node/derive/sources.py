"""The CT slices a series is derived from: headers left as bytes, and the digest that names this input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicom_node.dicom.enhanced import frame_dataset
from dicom_node.dicom.identity import canonical_bytes
from dicom_node.dicom.pixels import HuReader
from dicom_node.dicom.reading import ElementReader, open_dataset
from dicom_node.dicom.uids import input_digest, slice_digest, source_name
from dicom_node.errors import Permanent


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """One CT slice.

    Attributes
    ----------
    path : Path
        The file.
    header : pydicom.Dataset
        Its elements as bytes, without the pixels; for a frame of Enhanced CT as a classic slice would have them.
    sop_instance_uid, sop_class_uid, series_instance_uid, study_instance_uid : str
        As in the header, without padding.
    series_number, instance_number : int or None
        None when absent or no number.
    position_mm : numpy.ndarray
        (3,) ImagePositionPatient.
    orientation : numpy.ndarray
        (2, 3) direction cosines of a row and of a column.
    shape : tuple of int
        Rows and columns.
    digest : str
        SHA-256 of all that this slice contributes (`uids.slice_digest`).
    frame_number : int or None
        Which frame of an Enhanced CT instance this is, counted from 1; None for a whole instance.
    """

    path: Path
    header: Dataset
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    series_number: int | None
    instance_number: int | None
    position_mm: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]
    shape: tuple[int, int]
    digest: str
    frame_number: int | None = None

    @property
    def name(self) -> str:
        """What tells this slice from every other: its SOP Instance UID, with the frame where there is one."""
        return source_name(self.sop_instance_uid, self.frame_number)


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """The CT slices of one result in the order of the gate, and the digest over all of them."""

    slices: tuple[SourceSlice, ...]
    input_digest: str

    def instance_numbers(self) -> tuple[int, ...]:
        """The CT's Instance Numbers when all are positive and no two are equal, else 1 to n by position."""
        numbers = [slice_.instance_number or 0 for slice_ in self.slices]
        if min(numbers) > 0 and len(set(numbers)) == len(numbers):
            return tuple(numbers)
        return tuple(range(1, len(self.slices) + 1))

    def uniform_spacing_mm(self, tolerance_mm: float = 0.01) -> float | None:
        """Distance between neighbouring slice planes along their normal, or None when it varies."""
        if len(self.slices) < 2:
            return None
        row, column = self.slices[0].orientation
        normal = np.cross(row, column)
        steps = np.abs(np.diff([float(slice_.position_mm @ normal) for slice_ in self.slices]))
        return float(steps.mean()) if float(np.ptp(steps)) <= tolerance_mm else None


def _read_slice(header: Dataset, path: Path, frame_number: int | None, pixels: HuReader) -> SourceSlice:
    reader = ElementReader(header)
    position = reader.decimals("ImagePositionPatient", 3)
    orientation = reader.decimals("ImageOrientationPatient", 6)
    rows, columns = reader.short("Rows"), reader.short("Columns")
    sop_instance_uid, sop_class_uid = reader.text("SOPInstanceUID"), reader.text("SOPClassUID")
    series_instance_uid, study_instance_uid = reader.text("SeriesInstanceUID"), reader.text("StudyInstanceUID")
    named = sop_instance_uid and sop_class_uid and series_instance_uid and study_instance_uid
    if position is None or orientation is None or rows is None or columns is None or not named:
        raise Permanent(
            "source_header",
            "a CT slice lacks a UID, its size or its position, so no result can be placed beside it",
        )
    return SourceSlice(
        path=path,
        header=header,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        series_instance_uid=series_instance_uid,
        study_instance_uid=study_instance_uid,
        series_number=reader.integer("SeriesNumber"),
        instance_number=reader.integer("InstanceNumber"),
        position_mm=np.array(position),
        orientation=np.array(orientation).reshape(2, 3),
        shape=(rows, columns),
        digest=slice_digest(
            source_name(sop_instance_uid, frame_number), pixels.read(path, frame_number), canonical_bytes(header)
        ),
        frame_number=frame_number,
    )


def read_sources(paths: tuple[Path, ...], frames: tuple[int | None, ...] = ()) -> SourceSeries:
    """Read the CT slices of one result.

    Parameters
    ----------
    paths : tuple of Path
        Files in the order of the gate (ascending along the normal).
    frames : tuple of int or None
        Which frame of each file, None for all of it; may be empty when there are only whole files.

    Raises
    ------
    Permanent
        `unreadable`, `pixel_data` or `source_header` when a file cannot serve as a source.
    """
    slices: list[SourceSlice] = []
    pixels, last = HuReader(), Dataset()
    for index, (path, frame) in enumerate(zip(paths, frames or (None,) * len(paths), strict=True)):
        # The frames of one file come one after the other: it is parsed once.
        if index == 0 or path != paths[index - 1]:
            last = open_dataset(path)
        header = last if frame is None else frame_dataset(last, frame)
        slices.append(_read_slice(header, path, frame, pixels))
    if not slices:
        raise Permanent("source_header", "a result needs at least one CT slice")
    return SourceSeries(tuple(slices), input_digest(slice_.digest for slice_ in slices))
