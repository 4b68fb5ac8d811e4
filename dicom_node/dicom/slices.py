"""The slices of an instance: itself where it is a classic image, its frames where it is Enhanced CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydicom.datadict import tag_for_keyword

from dicom_node.dicom.enhanced import FUNCTIONAL_GROUPS, FrameError, frame_count, frame_dataset
from dicom_node.dicom.reading import open_dataset
from dicom_node.dicom.values import ENHANCED_CT_CLASSES, HEADER_KEYWORDS, SliceHeader, header_of
from dicom_node.errors import Permanent

__all__ = ["read_headers", "read_slices"]

_TAGS: Final = tuple(
    tag for tag in (tag_for_keyword(keyword) for keyword in (*HEADER_KEYWORDS, *FUNCTIONAL_GROUPS)) if tag is not None
)


def read_headers(path: Path) -> tuple[SliceHeader, ...]:
    """Read the headers of the images of one instance: one, or one per frame of Enhanced CT.

    Parameters
    ----------
    path : Path
        A DICOM file.

    Returns
    -------
    tuple of SliceHeader
        An Enhanced CT object whose functional groups do not tell its frames gives one header of kind ENHANCED, with
        the reason among its issues.

    Raises
    ------
    dicom_node.errors.NodeError
        As in `read_header`.
    """
    dataset = open_dataset(path, tags=_TAGS)
    whole = header_of(dataset, path)
    if whole.sop_class_uid not in ENHANCED_CT_CLASSES:
        return (whole,)
    try:
        numbers = range(1, frame_count(dataset) + 1)
    except FrameError as error:
        return (replace(whole, issues=(*whole.issues, str(error))),)
    frames = (header_of(frame_dataset(dataset, number), path, number) for number in numbers)
    return tuple(replace(frame, number_of_frames=len(numbers)) for frame in frames)


def read_slices(paths: Sequence[Path], frames: Sequence[int | None] = ()) -> tuple[SliceHeader, ...]:
    """Read the headers of the slices of one stack, in the order given.

    Parameters
    ----------
    paths : sequence of Path
        Their files.
    frames : sequence of int or None
        Which frame of each file, None for all of it; may be empty when there are only whole files.

    Raises
    ------
    dicom_node.errors.Permanent
        As in `read_header`; also when an Enhanced CT object lacks a frame.
    """
    headers: list[SliceHeader] = []
    found: dict[int | None, SliceHeader] = {}
    for index, (path, frame) in enumerate(zip(paths, frames or (None,) * len(paths), strict=True)):
        # The frames of one file come one after the other: it is parsed once.
        if index == 0 or path != paths[index - 1]:
            found = {header.frame_number: header for header in read_headers(path)}
        if frame not in found:
            raise Permanent("unreadable", "an Enhanced CT object has no such frame", {"frame_number": frame})
        headers.append(found[frame])
    return tuple(headers)
