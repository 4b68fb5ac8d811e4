"""Rounds over deliveries: what is due for each destination, one after the other, in a lane of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from sqlalchemy import ColumnElement, select

from dicom_node.deliver.lanes import Lanes
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Delivery, Job
from dicom_node.settings import Settings


class DeliveryRounds(ABC):
    """Does something with every delivery that is due. Nothing is remembered here: each round reads the ledger.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force; asked anew for every try, so a reload counts at once.
    """

    kind: ClassVar[str]

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings]) -> None:
        self._ledger = ledger
        self._settings = settings
        self._lanes = Lanes(self.kind, self.round)

    def wake(self) -> None:
        """Start with whatever is due. Returns at once."""
        with self._ledger.reading() as session:
            due = set(session.scalars(select(Delivery.destination).join(Job).where(*self._due())))
        self._lanes.want(due)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let what is under way end, then stop; the rest is due again at the next start."""
        self._lanes.stop(timeout_s)

    def round(self, destination: str) -> None:
        """Try every delivery to one destination that is due now, the oldest first."""
        query = (
            select(Delivery.id).join(Job).where(Delivery.destination == destination, *self._due()).order_by(Delivery.id)
        )
        with self._ledger.reading() as session:
            delivery_ids = list(session.scalars(query))
        for delivery_id in delivery_ids:
            if self._lanes.closed:
                return
            self._attempt(delivery_id)

    @abstractmethod
    def _due(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions for deliveries that are due."""

    @abstractmethod
    def _attempt(self, delivery_id: int) -> None:
        """Make one try; whatever comes of it is in the ledger when this returns."""
