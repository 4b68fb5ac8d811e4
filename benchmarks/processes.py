"""Memory of every process of a running node, over many series in a row, and where a series' time goes.

    python -m benchmarks.processes [--series 20] [--bundle builtin]

A real `jmmda-node serve` gets the same 28-slice head CT again and again under new UIDs and sends its results to
a loopback SCP. After every result the resident memory of each process is read; flat means that the last quarter of the
series needs no more than the second quarter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage

from benchmarks.common import ct_series, machine, rss_mib, table
from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession

CALLING_AE = "BENCH"
RESULT_TIMEOUT_S = 600.0


def _copy_with_new_uids(paths: list[Path], folder: Path, number: int) -> list[Path]:
    """Write the series under new study, series and instance UIDs."""
    folder.mkdir()
    study, series = (generate_uid(entropy_srcs=[str(number), level]) for level in ("study", "series"))
    copies = []
    for path in paths:
        ds = dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(
            entropy_srcs=[str(number), str(ds.SOPInstanceUID)]
        )
        copies.append(folder / path.name)
        ds.save_as(copies[-1])
    return copies


def _send(node: ThrowawayNode, paths: list[Path]) -> None:
    instances = [EncodedInstance.read(path) for path in paths]
    with StoreSession(node.remote, CALLING_AE, {one.need for one in instances}) as session:
        for one in instances:
            session.send_encoded(one)


def _maps_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def measure(count: int, bundle: str) -> dict[str, Any]:
    """Send `count` series, one after the other, and return memory and seconds."""
    got: list[str] = []
    scp = AE(ae_title=CALLING_AE)
    scp.add_supported_context(MRImageStorage)

    def on_store(event: evt.Event) -> int:
        got.append(event.request.AffectedSOPInstanceUID)
        return 0

    port = free_port()
    server = scp.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    memory: list[dict[str, float]] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, what = ct_series(folder / "ct")
        settings = ThrowawaySettings((Remote("scp", CALLING_AE, "127.0.0.1", port),), bundle=bundle, device="cpu")
        node = ThrowawayNode(folder / "node", settings)
        with node.running():
            for number in range(count):
                copies = _copy_with_new_uids(paths, folder / f"series{number}", number)
                _send(node, copies)
                start = time.monotonic()
                while len(got) < (number + 1) * len(paths):
                    if time.monotonic() > start + RESULT_TIMEOUT_S:
                        raise SystemExit(f"no result of series {number} after {RESULT_TIMEOUT_S:.0f} s")
                    time.sleep(0.05)
                seconds.append(time.monotonic() - start)
                memory.append({role: rss_mib(pid) for role, pid in node.processes().items()})
            processes = node.processes()
            peaks = {role: rss_mib(pid, "VmHWM") for role, pid in processes.items()}
            torch_in_receiver = _maps_torch(processes["receiver"])
            stages = node.status()["stages"]
    server.shutdown()
    return {
        "input": what,
        "series": count,
        "memory_mib": memory,
        "peak_mib": peaks,
        "receiver_maps_torch": torch_in_receiver,
        "seconds_from_last_image_to_last_result": seconds,
        "stages": stages,
    }


def _growth(memory: list[dict[str, float]], role: str) -> float:
    quarter = max(len(memory) // 4, 1)
    early = statistics.mean(one[role] for one in memory[quarter : 2 * quarter])
    late = statistics.mean(one[role] for one in memory[-quarter:])
    return late - early


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--bundle", default="builtin")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    found = measure(arguments.series, arguments.bundle)
    print(f"## Memory over {found['series']} series in a row ({found['input']})\n\n{machine()}\n")
    rows: list[tuple[object, ...]] = [
        (role, found["memory_mib"][0][role], found["memory_mib"][-1][role], _growth(found["memory_mib"], role), peak)
        for role, peak in found["peak_mib"].items()
    ]
    heading = ("process", "MiB after the first", "MiB after the last", "late minus early quarter", "peak MiB")
    print(table(heading, rows))
    print(f"\nreceiver has torch loaded: {found['receiver_maps_torch']} (must be False, and its peak under 100 MiB)")
    seconds = found["seconds_from_last_image_to_last_result"]
    print(f"seconds from last image sent to last result stored: median {statistics.median(seconds):.2f}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
