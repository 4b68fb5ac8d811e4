"""Receive rate, start and memory of the front door, beside a bare pynetdicom and DCMTK's storescp.

    python -m benchmarks.receive [--images 280] [--associations 1 4] [--receivers 1 2] [--rounds 3]

The sender is always DCMTK's storescu, one process for each association, on loopback. ``jmmda-node`` fsyncs file, folder
and journal before it answers; ``pynetdicom`` writes the raw bytes without fsync, with the same PDU size; ``storescp``
(tuned as in its best known setting) does not fsync either. Contestants take turns within each round; medians are shown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.common import machine, table
from dicom_node.receive.plan import Caller, ReceiverPlan

BARE = """
import sys
from pathlib import Path
from pynetdicom import AE, evt, _config
from pynetdicom.sop_class import CTImageStorage
_config.LOG_HANDLER_LEVEL = "none"
out = Path(sys.argv[2])
def store(event):
    (out / event.request.AffectedSOPInstanceUID).write_bytes(event.encoded_dataset())
    return 0
ae = AE("JMMDA_NODE")
ae.maximum_pdu_size = 131072
ae.maximum_associations = 64
ae.add_supported_context(CTImageStorage)
server = ae.start_server(("127.0.0.1", int(sys.argv[1])), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
print("listening", flush=True)
sys.stdin.read()
"""
STORESCU = "/usr/bin/storescu"
STORESCP = "/usr/bin/storescp"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_images(folder: Path, count: int) -> None:
    """CT instances of 512x512 with noise in them, 0.5 MB each; synthetic, no patient."""
    rng = np.random.default_rng(1)
    for number in range(count):
        ds = pydicom.Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(number)])
        ds.StudyInstanceUID = ds.SeriesInstanceUID = "1.2.3"
        ds.PatientName, ds.PatientID, ds.Modality = "Phantom^Synthetic", "PHANTOM", "CT"
        ds.Rows = ds.Columns = 512
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.PixelData = rng.integers(-1000, 1000, (512, 512), dtype=np.int16).tobytes()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


@contextlib.contextmanager
def node(port: int, out: Path, receivers: int) -> Iterator[None]:
    plan = ReceiverPlan(
        ae_title="JMMDA_NODE",
        host="127.0.0.1",
        port=port,
        data_dir=str(out),
        callers=(Caller("bench", ("STORESCU",), "127.0.0.1"),),
        share_port=receivers > 1,
        min_free_bytes=0,
        log_level="ERROR",
    )
    command = [sys.executable, "-m", "dicom_node.receive"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(receivers)]
    for process in processes:
        process.stdin.write(plan.to_line().encode())
        process.stdin.flush()
        process.stdout.readline()
    yield
    for process in processes:
        process.communicate()


@contextlib.contextmanager
def bare(port: int, out: Path) -> Iterator[None]:
    command = [sys.executable, "-c", BARE, str(port), str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield
    process.kill()
    process.communicate()


@contextlib.contextmanager
def storescp(port: int, out: Path) -> Iterator[None]:
    command = [STORESCP, "--fork", "-pdu", "131072", "+B", "-od", str(out), str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}, start_new_session=True)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    yield
    process.terminate()
    process.wait()


def send(images: Path, port: int, associations: int, per_association: int) -> float:
    """Seconds from the first client's start to the last one's end."""
    files = sorted(images.iterdir())
    shares = [files[index * per_association : (index + 1) * per_association] for index in range(associations)]
    began = time.monotonic()
    clients = [
        subprocess.Popen(
            [STORESCU, "-pdu", "131072", "-aec", "JMMDA_NODE", "127.0.0.1", str(port), *map(str, share)],
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        for share in shares
    ]
    codes = [client.wait() for client in clients]
    assert not any(codes), codes
    return time.monotonic() - began


def start_figures(work: Path) -> dict[str, float]:
    """Time until listening against the bare imports, and memory once listening."""
    imports = []
    starts = []
    memory = 0.0
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import pydicom, pynetdicom"], check=True)
        imports.append(time.monotonic() - began)
        plan = ReceiverPlan("JMMDA_NODE", "127.0.0.1", 0, str(work / "start"), min_free_bytes=0)
        began = time.monotonic()
        command = [sys.executable, "-m", "dicom_node.receive"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(plan.to_line().encode())
        process.stdin.flush()
        process.stdout.readline()
        starts.append(time.monotonic() - began)
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory = max(memory, int(status.split("VmRSS:")[1].split()[0]) / 1024)
        process.communicate()
    return {
        "import_s": statistics.median(imports),
        "listening_s": statistics.median(starts),
        "ratio": statistics.median(starts) / statistics.median(imports),
        "rss_mib": memory,
    }


def rates(work: Path, images: Path, arguments: argparse.Namespace, associations: int) -> dict[str, float]:
    """Images per second of every contestant with so many associations at once: the median over the rounds."""
    contestants = {f"jmmda-node x{n}": (lambda p, o, n=n: node(p, o, n)) for n in arguments.receivers}
    contestants |= {"pynetdicom (no fsync)": bare, "storescp (no fsync)": storescp}
    per_association = arguments.images // associations
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, contestant in contestants.items():
            out = work / "out"
            out.mkdir()
            port = free_port()
            with contestant(port, out):
                seconds = send(images, port, associations, per_association)
            measured[name].append(associations * per_association / seconds)
            shutil.rmtree(out)
    return {name: statistics.median(values) for name, values in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=280)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--receivers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=None, help="folder on the disk to measure")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if shutil.which("storescu") is None:
        print("## Receive rate\n\nnot measured: DCMTK (storescu, storescp) is not installed\n")
        return
    with tempfile.TemporaryDirectory(prefix="bench-receive-", dir=arguments.work) as name:
        work = Path(name)
        start = start_figures(work)
        images = work / "images"
        images.mkdir()
        make_images(images, arguments.images)
        found = {count: rates(work, images, arguments, count) for count in arguments.associations}
    print(f"## Receive rate, images of 0.5 MB per second, median of {arguments.rounds} rounds\n\n{machine()}\n")
    heading = ("associations", *next(iter(found.values())))
    print(table(heading, [(count, *one.values()) for count, one in found.items()]))
    print(
        f"\nreceiver listens after {start['listening_s']:.2f} s, {start['ratio']:.2f} times the bare imports of pydicom"
        f" and pynetdicom (goal: at most 2.0); {start['rss_mib']:.0f} MiB (goal: at most 100)\n"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"start": start, "images_per_s": found}, indent=1))


if __name__ == "__main__":
    main()
