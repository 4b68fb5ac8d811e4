"""A destination that is asked for storage commitment and answers as a test wants, and a node that asks it.

The destination is made of pynetdicom alone and shares no code with the node. The node's own side is real: its outbox,
its requests, and a receiver on a free port to which reports come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import MRImageStorage, StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.deliver.commitment import CommitmentAsker
from dicom_node.deliver.commitment_reports import CommitmentReports
from dicom_node.ledger.states import CommitmentState
from dicom_node.ledger.tables import CommitmentTransaction, Event
from dicom_node.receive.planning import receiver_plan
from dicom_node.receive.server import Receiver
from dicom_node.settings import Settings
from tests.dicom_node.deliver.outbox_cases import PATIENCE, Case
from tests.dicom_node.net.associations import wait_until

NODE_AE = "JMMDA_NODE"


@dataclass
class Request:
    """One N-ACTION that came."""

    transaction_uid: str
    references: list[tuple[str, str]]
    event: Any = field(repr=False)

    @property
    def uids(self) -> list[str]:
        return [uid for _, uid in self.references]


def report_dataset(
    request: Request, failed: dict[str, int] | None = None, only: Sequence[str] | None = None
) -> Dataset:
    """Event information that commits everything asked, or all but what failed, or only some."""
    failed = failed or {}
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    good, bad = [], []
    for sop_class, uid in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        if uid in failed:
            item.FailureReason = failed[uid]
            bad.append(item)
        elif only is None or uid in only:
            good.append(item)
    if good:
        ds.ReferencedSOPSequence = good
    if bad:
        ds.FailedSOPSequence = bad
    return ds


class Destination:
    """Stores, takes requests, and reports when told to."""

    def __init__(self, title: str = "PACS") -> None:
        self.title = title
        self.stored: list[str] = []
        self.requests: list[Request] = []
        self.action_status = 0x0000
        self.node_port = 0
        #: What to do with a request while it is being answered, and once it has been.
        self.within: Callable[[Request], object] | None = None
        self.after: Callable[[Request], object] | None = None

    @contextmanager
    def listening(self, *, commits: bool = True) -> Iterator[int]:
        entity = AE(self.title)
        entity.add_supported_context(MRImageStorage)
        if commits:
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            for assoc in server.active_associations:
                assoc.abort()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: evt.Event) -> tuple[int, None]:
        ds = event.action_information
        assert event.action_type == 1
        assert str(event.request.RequestedSOPInstanceUID) == StorageCommitmentPushModelInstance
        references = [
            (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in ds.ReferencedSOPSequence
        ]
        request = Request(str(ds.TransactionUID), references, event)
        self.requests.append(request)
        if self.within is not None:
            self.within(request)
        if self.after is not None:
            threading.Timer(0.2, self.after, (request,)).start()
        return self.action_status, None

    def report(
        self, ds: Dataset, *, event_type: int | None = None, title: str | None = None, roles: bool = True
    ) -> int:
        """Report over an association of our own; return the status of the answer."""
        entity = AE(title or self.title)
        assoc = entity.associate(
            "127.0.0.1", self.node_port, [build_context(StorageCommitmentPushModel)], ae_title=NODE_AE,
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)] if roles else [],
        )  # fmt: skip
        assert assoc.is_established
        try:
            return self._send(assoc, ds, event_type)
        finally:
            assoc.release()

    def report_over_the_same(self, request: Request, ds: Dataset) -> int:
        """Report over the association on which the request came."""
        return self._send(request.event.assoc, ds, None)

    def _send(self, assoc: Any, ds: Dataset, event_type: int | None) -> int:
        kind = event_type or (2 if "FailedSOPSequence" in ds else 1)
        status, _ = assoc.send_n_event_report(ds, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        return int(status.Status)


class CommitmentCase(Case):
    """A node with a derived result whose destination, or another peer, confirms it."""

    def __init__(self, tmp_path: Path, destinations: tuple[str, ...] = ("pacs",), **commitment: object) -> None:
        super().__init__(tmp_path, destinations=destinations)
        values = {"same_association_s": 0.0, "report_timeout_s": 60.0, "attempts": 3, **commitment}
        self.settings = Settings.model_validate(
            {**self.settings.model_dump(), "delivery": PATIENCE, "commitment": values,
             "node": {"host": "127.0.0.1", "data_dir": self.room.paths.data_dir}}
        )  # fmt: skip
        self.open()

    def open(self) -> None:
        """Make the parts that ask and listen; again after a loss of the ledger."""
        self.asker = CommitmentAsker(self.room.ledger, lambda: self.settings)
        self.reports = CommitmentReports(self.room.ledger, lambda: self.settings)

    def peer(self, name: str, port: int, roles: Sequence[str] = ("destination", "commitment"), **more: object) -> None:
        """Have a peer where a test listens; its AE title is its name in capitals."""
        entry = {"name": name, "ae_titles": [name.upper()], "host": "127.0.0.1", "port": port, "roles": roles, **more}
        others = [one.model_dump() for one in self.settings.peers if one.name != name]
        self.settings = Settings.model_validate({**self.settings.model_dump(), "peers": [*others, entry]})

    @contextmanager
    def receiving(self, destination: Destination) -> Iterator[None]:
        """Run a receiver to which reports come."""
        plan = receiver_plan(self.settings).from_line(receiver_plan(self.settings).to_line())
        receiver = Receiver(_on_a_free_port(plan))
        destination.node_port = receiver.address[1]
        try:
            yield
        finally:
            receiver.drain()

    def deliver(self, name: str = "pacs") -> None:
        self.outbox.round(name)

    def ask(self, name: str = "pacs") -> None:
        self.asker.round(name)

    def state_of(self, name: str = "pacs") -> CommitmentState | None:
        return self.delivery(name).commitment

    def transactions(self) -> list[CommitmentTransaction]:
        with self.room.ledger.reading() as session:
            return list(session.query(CommitmentTransaction).order_by(CommitmentTransaction.id))

    def remarks(self) -> list[str]:
        """Codes of what the history of the series tells of storage commitment."""
        with self.room.ledger.reading() as session:
            found = session.query(Event).filter(Event.kind == "commitment").order_by(Event.id)
            return [str(one.code) for one in found]

    def take_in(self, count: int = 1) -> None:
        """Wait for so many reports on disk, then take them into the ledger."""
        folder = self.room.paths.data_dir / "commitment"
        assert wait_until(lambda: len(list(folder.glob("*.report.json"))) == count, 10)
        assert self.reports.take_in() == count
        assert list(folder.iterdir()) == []

    def close(self) -> None:
        self.outbox.stop()
        self.asker.stop()
        self.room.ledger.close()


def _on_a_free_port(plan: Any) -> Any:
    from dataclasses import replace

    return replace(plan, port=0, min_free_bytes=0, drain_s=3.0)
