"""Deterministic UIDs: the same input, model and settings always name the same series.

A PACS keeps the first copy of a UID or overwrites it, and an archive must never hold two contents under one UID.
Therefore everything that changes pixels or header goes into the name, and nothing else does: the engine and the
device that computed it stay out, the first result is kept.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from importlib import metadata
from typing import Final

import numpy as np
import numpy.typing as npt

#: Name space of every UID of this application (RFC 9562 version 5). Changing it renames all results.
NAMESPACE: Final = uuid.UUID("6f0b9c1e-5a0c-5b0e-9d3e-3f6a2b7c8d91")

#: Unit separator: no UID, hash, version or node id may hold a control character, so the parts cannot run together.
_SEPARATOR: Final = "\x1f"


def application_version() -> str:
    """Version of jmmda-node as installed; ``0+source`` when it runs from a folder that was never installed."""
    try:
        return metadata.version("jmmda-node")
    except metadata.PackageNotFoundError:
        return "0+source"


def highdicom_version() -> str:
    """Version of highdicom, whose rules shape the object; read without importing it."""
    return metadata.version("highdicom")


def derived_uid(*parts: str) -> str:
    """Return the UID named by the parts, ``2.25.`` and a decimal UUID (PS3.5 annex B.2), at most 44 characters.

    Parameters
    ----------
    *parts : str
        Text without control characters.

    Raises
    ------
    ValueError
        When a part holds the separator, because then different parts could give one name.
    """
    if any(_SEPARATOR in part for part in parts):
        raise ValueError("a part of a derived UID holds the separator")
    return f"2.25.{uuid.uuid5(NAMESPACE, _SEPARATOR.join(parts)).int}"


def derived_series_uid(
    kind: str,
    source_series_uid: str,
    bundle_sha256: str,
    input_digest: str,
    output_fingerprint: str,
    node_id: str,
) -> str:
    """Series Instance UID of a result.

    Parameters
    ----------
    kind : str
        Which object of the result (``mr``, ``sc``); companions have their own kind, hence their own series.
    source_series_uid : str
        Series Instance UID of the CT.
    bundle_sha256 : str
        Hash of the model bundle.
    input_digest : str
        `input_digest` of the CT slices.
    output_fingerprint : str
        Hash over the settings and texts that shape the object.
    node_id : str
        ``node.node_id`` of the settings: two nodes never make the same UID.

    Returns
    -------
    str
        The UID; application and highdicom version are part of it.
    """
    return derived_uid(
        "series",
        kind,
        source_series_uid,
        bundle_sha256,
        input_digest,
        output_fingerprint,
        application_version(),
        highdicom_version(),
        node_id,
    )


def derived_sop_uid(kind: str, series_uid: str, source_sop_uid: str) -> str:
    """SOP Instance UID of the derived image of one CT slice in one derived series."""
    return derived_uid("instance", kind, series_uid, source_sop_uid)


def source_name(sop_instance_uid: str, frame_number: int | None) -> str:
    """Name of one source image for UIDs and digests: a whole instance, or one frame of it."""
    return sop_instance_uid if frame_number is None else f"{sop_instance_uid} frame {frame_number}"


def derived_frame_of_reference_uid(study_uid: str, source_series_uid: str) -> str:
    """Frame of Reference UID for a CT that has none: the same for every result of that series."""
    return derived_uid("frame-of-reference", study_uid, source_series_uid)


def slice_digest(sop_instance_uid: str, hu: npt.NDArray[np.floating | np.integer], header: bytes) -> str:
    """SHA-256 of what one CT slice contributes to a result.

    Parameters
    ----------
    sop_instance_uid : str
        Its SOP Instance UID.
    hu : numpy.ndarray
        (rows, columns) Hounsfield units; rounded to int16, so the digest does not depend on the transfer syntax.
    header : bytes
        Canonical bytes of the geometry and identity elements that are copied (`identity.canonical_bytes`).
    """
    digest = hashlib.sha256()
    pixels = np.ascontiguousarray(np.clip(np.rint(hu), -32768, 32767), dtype="<i2")
    for part in (sop_instance_uid.encode(), repr(pixels.shape).encode(), pixels.tobytes(), header):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def input_digest(slice_digests: Iterable[str]) -> str:
    """SHA-256 over the digests of all slices, in whatever order they are given."""
    return hashlib.sha256("\n".join(sorted(slice_digests)).encode()).hexdigest()
