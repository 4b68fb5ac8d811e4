"""A node with one derived result that waits for its destinations, and an archive to send it to."""

from __future__ import annotations

from pathlib import Path

from pynetdicom import evt
from sqlalchemy import select

from dicom_node.deliver.outbox import Outbox
from dicom_node.derive.writer import derive_series
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.states import DeliveryState, State
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Job
from dicom_node.net.remote import Remote
from dicom_node.settings import Settings
from tests.dicom_node.derive.derive_cases import PATIENT_BUNDLE, request_for, write_ct_series
from tests.dicom_node.node_cases import Room, head_stack, node_settings, receive

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
PATIENCE = {"attempts": 3, "first_wait_s": 5.0, "longest_wait_s": 20.0, "association_timeout_s": 3.0}


class Archive:
    """Takes instances and counts them; answers as scripted by arrival number, else with 0x0000."""

    def __init__(self, answers: dict[int, int] | None = None) -> None:
        self.answers = answers or {}
        self.arrived: list[str] = []

    def __call__(self, event: evt.Event) -> int:
        self.arrived.append(str(event.request.AffectedSOPInstanceUID))
        return self.answers.get(len(self.arrived), 0)


class Case:
    """A node with one derived result that waits for its destinations."""

    def __init__(
        self, tmp_path: Path, bundle=PATIENT_BUNDLE, destinations: tuple[str, ...] = ("pacs",), kind: str = "mr"
    ) -> None:
        self.room = Room(tmp_path / "data")
        self.bundle = bundle
        receive(self.room, head_stack())
        self.room.settle()
        self.key = str(self.room.series().job_key)
        out = self.room.paths.jobs / self.key / OUT_FOLDER
        out.mkdir()
        self.result = derive_series(
            request_for(write_ct_series(tmp_path / "ct"), bundle, output=OutputSettings(object=kind)), out
        )
        self.settings = node_settings(self.room.paths.data_dir, delivery=PATIENCE)
        with self.room.ledger.transaction() as change:
            job = change.job(self.key)
            assert job is not None
            job.bundle = {"is_phantom": bundle.is_phantom, "trained": bundle.trained}
            change.move_job(job, State.SYNTHESIZING)
            job.result = {
                "label_facts": self.result.label_facts.to_json(),
                "instances": [
                    {
                        "file": one.path.name,
                        "sop_instance_uid": one.sop_instance_uid,
                        "sop_class_uid": one.sop_class_uid,
                    }
                    for one in self.result.instances
                ],
            }
            change.move_job(job, State.DERIVED)
            for name in destinations:
                delivery = Delivery(destination=name, attempts=0, state=DeliveryState.PENDING)
                delivery.instances = [
                    DeliveryInstance(sop_instance_uid=one.sop_instance_uid, stored=False)
                    for one in self.result.instances
                ]
                job.deliveries.append(delivery)
        self.outbox = Outbox(self.room.ledger, lambda: self.settings)

    def destination(self, remote: Remote, name: str = "pacs") -> None:
        """Have a destination reachable where a test listens."""
        peer = {"name": name, "ae_titles": [remote.called_ae_title], "host": remote.host, "port": remote.port,
                "roles": ["destination"]}  # fmt: skip
        others = [one.model_dump() for one in self.settings.peers if one.name != name]
        self.settings = Settings.model_validate({**self.settings.model_dump(), "peers": [*others, peer]})

    def job(self) -> Job:
        with self.room.ledger.reading() as session:
            job = session.scalars(select(Job)).one()
            for delivery in job.deliveries:
                assert delivery.instances
            assert job.series.state is not None
            return job

    def delivery(self, name: str = "pacs") -> Delivery:
        return next(one for one in self.job().deliveries if one.destination == name)
