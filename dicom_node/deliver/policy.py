"""How patiently we call peers: the administrator's values for one line of the retry table."""

from __future__ import annotations

from dicom_node.errors import RetryPolicy
from dicom_node.settings import DeliverySettings


def delivery_policy(delivery: DeliverySettings) -> RetryPolicy:
    """Return the administrator's values for the "deliver" line of `dicom_node.errors.RETRY`."""
    return RetryPolicy(delivery.attempts, delivery.first_wait_s, delivery.longest_wait_s)
