"""Companions on their way out: each over an association of its own, after the images, and never in their way.

A peer that does not know the class of one, or a file that lost a mark, costs that companion alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydicom.uid import UID

from dicom_node.deliver.sender import DeliveryReport, send_instances
from dicom_node.dicom.companion_labels import CompanionFacts, check_companion
from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.scu import StoreResult

#: Kind and code of the remark that names a companion that a destination did not get.
NOT_DELIVERED: Final = "companion_not_delivered"


@dataclass(frozen=True, slots=True)
class Companion:
    """One file to send: where it lies, its class, and the facts that it has to show as the job record keeps them."""

    path: Path
    kind: str
    sop_class_uid: str
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CompanionTrouble:
    """Why a companion did not get through."""

    companion: Companion
    error: NodeError

    @property
    def transient(self) -> bool:
        """Whether another try may help."""
        return isinstance(self.error, Transient)

    def told(self, destination: str) -> str:
        """In words, with kind, class and peer."""
        one = self.companion
        return f"{one.kind} ({UID(one.sop_class_uid).name}) did not get to {destination}: {self.error.reason}"


def missing_companions(result: Mapping[str, Any], missing: set[str], out: Path) -> tuple[Companion, ...]:
    """Companions of a job's result whose instances a destination does not have yet."""
    return tuple(
        Companion(out / item["file"], str(one["kind"]), str(item["sop_class_uid"]), one["companion_facts"])
        for one in result.get("companions", ())
        for item in one["instances"]
        if item["sop_instance_uid"] in missing
    )


def send_companions(
    peer: RemoteEntity,
    calling_ae: str,
    companions: Sequence[Companion],
    *,
    judge: Callable[[DeliveryReport], NodeError | None],
    on_result: Callable[[Path, StoreResult], None],
    timeout_s: float,
) -> tuple[CompanionTrouble, ...]:
    """Send companions one by one.

    Parameters
    ----------
    peer, calling_ae, on_result, timeout_s
        As for `send_instances`.
    companions : sequence of Companion
        What to send, in this order.
    judge : callable
        Says of a report what kept it from being complete.

    Returns
    -------
    tuple of CompanionTrouble
        One for each companion that the peer does not have now.
    """
    troubles = []
    for one in companions:
        try:
            facts = CompanionFacts.from_json(one.facts)
            report = send_instances(
                peer,
                calling_ae,
                (one.path,),
                check=partial(check_companion, facts=facts),
                on_result=on_result,
                timeout_s=timeout_s,
            )
            error = judge(report)
        except NodeError as caught:
            error = caught
        except FileNotFoundError:
            error = Permanent("result_missing", "its file is gone")
        except OSError as caught:
            error = Transient("storage", f"its file cannot be read: {caught.strerror}")
        if error is not None:
            troubles.append(CompanionTrouble(one, error))
    return tuple(troubles)
