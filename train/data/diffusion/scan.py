"""Find the series in a folder of files: any nesting, told by their headers, never by their names."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from dicom_node.dicom.reading import PARSE_ERRORS, open_dataset, quiet_pydicom
from dicom_node.dicom.values import SliceHeader, header_of
from dicom_node.errors import NodeError
from train.data.diffusion.duplicates import without_duplicates
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.facts import MR_CLASSES, Instance, SeriesFacts, facts_of
from train.data.diffusion.frames import frames_of
from train.data.diffusion.weighting import manufacturer_of

__all__ = ["FolderScan", "find_series", "scan_folder"]

_log = logging.getLogger(__name__)

_EMPTY_ID: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class FolderScan:
    """What a folder holds.

    Attributes
    ----------
    series : tuple of SeriesFacts
        In order of SeriesInstanceUID.
    n_files : int
        Files looked at.
    n_not_dicom : int
        Files that are no DICOM image: other formats, DICOMDIR.
    n_broken : int
        Files that are DICOM, but cannot be read or identified.
    n_repeated : int
        Files that repeat an instance that was counted already.
    """

    series: tuple[SeriesFacts, ...]
    n_files: int
    n_not_dicom: int
    n_broken: int
    n_repeated: int


class _NotDicomError(Exception):
    """The file does not claim to be a DICOM image."""


def find_series(folder: Path) -> tuple[SeriesFacts, ...]:
    """Find the series in a folder; `scan_folder` says as well what was skipped.

    Raises
    ------
    DiffusionError
        ``unreadable``: the folder is not there.
    """
    return scan_folder(folder).series


def scan_folder(folder: Path) -> FolderScan:
    """Read the header of every file below a folder and group the images by SeriesInstanceUID.

    Parameters
    ----------
    folder : Path
        Root of a case; files may lie at any depth under any name.

    Returns
    -------
    FolderScan
        Two different series that claim one UID appear as one entry with the fault ``duplicate_uid``, which
        `read_diffusion`, `read_ct` and `choose_pair` refuse.

    Raises
    ------
    DiffusionError
        ``unreadable``: the folder is not there.
    """
    if not folder.is_dir():
        raise DiffusionError("unreadable", "the folder is not there")
    found: dict[str, list[Instance]] = {}
    files = not_dicom = broken = repeated = 0
    for path in _files(folder):
        files += 1
        try:
            instance = _read(path)
        except _NotDicomError:
            not_dicom += 1
        except (NodeError, *PARSE_ERRORS) as error:
            broken += 1
            _log.warning("a DICOM file could not be read and was skipped (%s)", type(error).__name__)
        else:
            found.setdefault(instance.header.series_instance_uid, []).append(instance)
    series = []
    for uid in sorted(found):
        kept = without_duplicates(found[uid])
        repeated += kept.n_repeated
        series.append(facts_of(kept.instances, kept.faults, kept.notes))
    return FolderScan(tuple(series), files, not_dicom, broken, repeated)


def _files(folder: Path) -> Iterator[Path]:
    """Walk in a fixed order, so that nothing depends on the file system."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file():
                yield path


def _read(path: Path) -> Instance:
    """Read one file.

    Raises
    ------
    _NotDicomError
        Another format, or a DICOM object that is no image of a series (DICOMDIR).
    NodeError, ValueError
        Broken.
    """
    claims = _claims_dicom(path)
    try:
        dataset = open_dataset(path)
    except NodeError:
        if claims:
            raise
        raise _NotDicomError from None
    if "DirectoryRecordSequence" in dataset or (not claims and "SOPInstanceUID" not in dataset):
        raise _NotDicomError
    header = header_of(dataset, path)
    header = replace(header, patient_key=_salted(header.patient_key))
    with quiet_pydicom():
        frames = frames_of(dataset, path) if header.modality == "MR" and header.sop_class_uid in MR_CLASSES else ()
        return Instance(_lean(header), manufacturer_of(dataset), frames)


def _claims_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        # Unreadable is broken, whatever the file would have been.
        return True


def _lean(header: SliceHeader) -> SliceHeader:
    """Drop the free text that only the choice among CT series needs."""
    if header.modality == "CT":
        return header
    return replace(header, series_description="", protocol_name="")


def _salted(patient_key: str) -> str:
    """Digest that says "the same patient" within this process and nothing outside it; empty for an empty PatientID."""
    return "" if patient_key == _EMPTY_ID else hashlib.sha256(_salt() + patient_key.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _salt() -> bytes:
    # An ID is short enough to be guessed from a plain digest; a random salt that is never written down prevents it.
    return secrets.token_bytes(16)
