"""Wall and CPU seconds per stage of one series, and the node's overhead over the generator alone.

    python -m benchmarks.stages [--rounds 3] [--sizes compact base]

The stages are those of the journey after the last image has arrived: choice and gate, synthesis, derive, and C-STORE of
the result to an SCP on the loopback interface. `(total - wait) / generator` is the goal that speaks of the node: how
much longer than the bare network everything takes. `base` is untrained (its weights decide nothing about time).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage

from benchmarks.common import Clock, ct_series, machine, table
from benchmarks.mask import time_line, time_of_32_slices
from dicom_node.derive.writer import DeriveRequest, derive_series
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession
from dicom_node.offline import OfflineRules, plan_study, scan
from dicom_node.synthesize.facts import bundle_facts
from dicom_node.synthesize.pipeline import load_ct_volume
from jmmda_model.bundle import load_bundle, make_untrained_bundle
from jmmda_model.imaging.grid import from_network_grid, to_network_grid
from jmmda_model.imaging.mask import brain_mask
from jmmda_model.runtime import Runtime

GENERATOR = "generator"


def _one_round(clock: Clock, runtime: Runtime, source: Path, out: Path, port: int) -> None:
    rules = OfflineRules()
    with clock.stage("headers, choice, gate"):
        scanned = scan(source)
        [(uid, series)] = scanned.studies.items()
        gate = plan_study(uid, series, rules).ensure_processable()
    with clock.stage("read, HU"):
        volume = load_ct_volume(gate.headers)
    with clock.stage("brain mask"):
        mask = brain_mask(volume)
    contract = runtime.bundle.card.contract
    with clock.stage("to network grid"):
        network_input = to_network_grid(volume, mask, contract)
    with clock.stage(GENERATOR):
        prediction = runtime.predict(network_input)
    with clock.stage("back to CT grid"):
        pixels = from_network_grid(prediction, network_input, mask, contract)
    request = DeriveRequest(
        source_paths=tuple(header.path for header in gate.headers),
        pixels=pixels,
        mask=mask.mask,
        source_slices=network_input.source_slices,
        bundle=bundle_facts(runtime.bundle),
        output=rules.output,
        node_id=rules.node_id,
        created=datetime.now(UTC),
    )
    out.mkdir()
    with clock.stage("derive (highdicom, label check, fsync)"):
        derived = derive_series(request, out)
    with clock.stage("C-STORE to a loopback SCP"):
        instances = [EncodedInstance.read(one.path) for one in derived.instances]
        remote = Remote("scp", "SCP", "127.0.0.1", port)
        with StoreSession(remote, "BENCH", {one.need for one in instances}) as session:
            for one in instances:
                session.send_encoded(one)


def measure(size: str, rounds: int) -> dict[str, object]:
    """Measure one network size and return the medians."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, what = ct_series(folder / "ct")
        bundle = load_bundle("builtin") if size == "compact" else make_untrained_bundle(folder / "bundle", size=size)
        runtime = Runtime.load(bundle, device="cpu")
        scp = AE(ae_title="SCP")
        scp.add_supported_context(MRImageStorage)
        server = scp.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0)])
        port = server.socket.getsockname()[1]
        for number in range(rounds + 1):
            if number == 1:  # the first round fills caches and is not counted
                clock = Clock()
            _one_round(clock, runtime, paths[0].parent, folder / f"out{number}", port)
        server.shutdown()
    medians = clock.medians()
    total = sum(wall for wall, _ in medians.values())
    return {
        "size": size,
        "input": what,
        "rounds": rounds,
        "seconds": {stage: {"wall": wall, "cpu": cpu} for stage, (wall, cpu) in medians.items()},
        "total_over_generator": total / medians[GENERATOR][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["compact", "base"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    results = [measure(size, arguments.rounds) for size in arguments.sizes]
    print(f"## Seconds per stage, one series ({results[0]['input']}), median of {arguments.rounds} rounds\n")
    print(f"{machine()}\n")
    for result in results:
        seconds: dict[str, dict[str, float]] = result["seconds"]  # type: ignore[assignment]
        rows: list[tuple[object, ...]] = [(stage, one["wall"], one["cpu"]) for stage, one in seconds.items()]
        print(f"### size `{result['size']}`\n\n{table(('stage', 'wall s', 'CPU s'), rows)}\n")
        print(f"total / generator = {result['total_over_generator']:.3f} (goal with base: at most 1.10)\n")
    mask = time_of_32_slices()
    print(time_line(mask) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([*results, {"size": None, "brain_mask_32_slices": mask}], indent=1))


if __name__ == "__main__":
    main()
