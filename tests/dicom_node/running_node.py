"""A real node with real processes and a PACS that the test holds in its hand, for `test_node*`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.ledger import queries
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.store import Ledger
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession

PACS_AE = "MINIPACS"
PATIENCE_S = 120.0


class Pacs:
    """Keeps what it gets in memory and counts how often each instance came."""

    def __init__(self, also: Sequence[str] = ()) -> None:
        self.sop_classes = (Verification, MRImageStorage, CTImageStorage, *also)
        self.remote = Remote("minipacs", PACS_AE, "127.0.0.1", free_port())
        self.arrivals: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        entity = AE(PACS_AE)
        for sop_class in self.sop_classes:
            entity.add_supported_context(sop_class)
        address = (self.remote.host, self.remote.port)
        server = entity.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        try:
            yield
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.arrivals[uid] += 1
        self.files[uid] = event.encoded_dataset()
        return 0x0000

    def write_to(self, folder: Path) -> list[Path]:
        """Write what was received as files."""
        folder.mkdir()
        paths = [folder / f"{number:04d}.dcm" for number in range(len(self.files))]
        for path, data in zip(paths, self.files.values(), strict=True):
            path.write_bytes(data)
        return paths

    def series(self, folder: Path) -> set[str]:
        """Series Instance UIDs of what was received."""
        return {str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID) for path in self.write_to(folder)}


class Node(ThrowawayNode):
    """A throwaway node with short timers, and a look into its ledger."""

    @property
    def paths(self) -> SpoolPaths:
        return SpoolPaths(self.folder / "data")

    def look(self) -> list[queries.SeriesView]:
        """Every series as the ledger has it now."""
        ledger = Ledger.open_to_read(self.paths)
        if ledger is None:
            return []
        try:
            with ledger.reading() as session:
                return queries.list_series(session)
        finally:
            ledger.close()

    def states(self) -> list[str]:
        return sorted(one.state for one in self.look())

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the node has come as far as a test wants it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if condition():
                return
            assert self.process is not None
            assert self.process.poll() is None, f"the node ended: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)
        raise AssertionError(f"{what} did not happen; states {self.states()}; log:\n{self.log.read_text()[-3000:]}")

    def lose_ledger(self) -> None:
        for path in self.paths.data_dir.glob("ledger.sqlite*"):
            path.unlink()


def make_node(folder: Path, pacs: Pacs, bundle: Path, *, allow_phantom_bundle: bool = True) -> Node:
    settings = ThrowawaySettings(
        (pacs.remote,), bundle=str(bundle), device="cpu", allow_phantom_bundle=allow_phantom_bundle, settle_s=0.3,
        quiet_s=2.0, study_quiet_s=0.3, node_id="test",
    )  # fmt: skip
    node = Node(folder, settings)
    node.write_config()
    return node


def send(node: Node, paths: Sequence[Path]) -> None:
    """Send files to the node over one association; every one must be acknowledged."""
    instances = [EncodedInstance.read(path) for path in paths]
    with StoreSession(node.remote, PACS_AE, {one.need for one in instances}) as session:
        for instance in instances:
            assert session.send_encoded(instance).status == 0x0000
