"""Helpers for tests over real associations: small CT files, a scripted storage SCP, a raw upper layer client."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket

from dicom_node.net.connection import _close
from dicom_node.net.remote import Remote

# pynetdicom leaves the descriptor of a connection that the peer has closed to the garbage collector, which warns in
# whatever test is running then. The node closes its own; the peers of these tests do so as well.
AssociationSocket._shutdown_socket = _close

PATIENT_NAME = "GEHEIM^NAME"
PATIENT_ID = "SECRET-4711"


def ct_dataset(number: int, *, side_px: int = 16, **changes: Any) -> Dataset:
    """A small CT instance of an invented patient; its UIDs follow from the number."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"2.25.{int(hashlib.sha256(str(number).encode()).hexdigest()[:30], 16)}"
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = PATIENT_NAME, PATIENT_ID, "19010203"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.1", "2.25.2"
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.Rows = ds.Columns = side_px
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = np.random.default_rng(number).integers(-1000, 1000, (side_px, side_px), dtype=np.int16).tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def write_series(folder: Path, count: int, **changes: Any) -> list[Path]:
    """Files of a small series, in the order of their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        path = folder / f"{number:04d}.dcm"
        ct_dataset(number, **changes).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@contextlib.contextmanager
def storage_scp(
    handler: Callable[[evt.Event], int],
    *,
    syntaxes: list[str] | None = None,
    sop_class: str = CTImageStorage,
    ae_title: str = "PACS",
    calling: str | None = None,
    handlers: list[Any] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Iterator[Remote]:
    """Run a pynetdicom storage SCP on a free loopback port; yields how to call it."""
    entity = AE(ae_title)
    entity.add_supported_context(Verification)
    if sop_class:
        entity.add_supported_context(sop_class, syntaxes or [ExplicitVRLittleEndian])
    entity.require_called_aet = True
    if calling is not None:
        entity.require_calling_aet = [calling]
    bound = [(evt.EVT_C_STORE, handler), *(handlers or [])]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=bound, ssl_context=ssl_context)
    try:
        yield Remote("pacs", ae_title, "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        for assoc in server.active_associations:
            assoc.abort()


@contextlib.contextmanager
def raw_server(script: Callable[[socket.socket], None]) -> Iterator[Remote]:
    """Run a TCP server that does what a script says with its one connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                script(connection)
                done.wait(10)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Remote("pacs", "PACS", "127.0.0.1", listener.getsockname()[1])
    finally:
        done.set()
        listener.close()
        thread.join(5)


def item(kind: int, body: bytes) -> bytes:
    """A variable item of an association PDU (PS3.8 section 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def association_request(calling: str, called: str, sop_class: str, syntaxes: list[str]) -> bytes:
    """An A-ASSOCIATE-RQ PDU with one presentation context, ID 1."""
    context = bytes([1, 0, 0, 0]) + item(0x30, sop_class.encode())
    context += b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"2.25.9")
    body = struct.pack(">HH16s16s32s", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode(), b"")
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return struct.pack(">BBL", 1, 0, len(body)) + body


def store_command(sop_instance_uid: str, *, data_set: bool = True) -> bytes:
    """The command set of a C-STORE request (PS3.7 section 9.3.1.1), Implicit VR Little Endian."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = element(0x0002, str(CTImageStorage).encode()) + element(0x0100, struct.pack("<H", 1))
    body += element(0x0110, struct.pack("<H", 1)) + element(0x0700, struct.pack("<H", 0))
    body += element(0x0800, struct.pack("<H", 0 if data_set else 0x0101)) + element(0x1000, sop_instance_uid.encode())
    return element(0x0000, struct.pack("<L", len(body))) + body


def pdata(control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU with one fragment in context 1 (PS3.8 section 9.3.5)."""
    value = struct.pack(">LBB", len(fragment) + 2, 1, control) + fragment
    return struct.pack(">BBL", 4, 0, len(value)) + value


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> bool:
    """Wait for something that another thread or process is about to do."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False
