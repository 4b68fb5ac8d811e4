"""From the settings to the plan of a receiver. Runs in the supervisor; no receiver process imports it."""

from __future__ import annotations

from dicom_node.receive.plan import Caller, ReceiverPlan
from dicom_node.settings import Peer, Role, Settings


def receiver_plan(settings: Settings) -> ReceiverPlan:
    """Return the plan that every receiver of a node gets.

    Parameters
    ----------
    settings : Settings
        Effective settings; ``node.data_dir`` must be absolute, as `load_settings` makes it.

    Returns
    -------
    ReceiverPlan
        With ``share_port`` set when ``workers.receivers`` asks for several processes.
    """
    node = settings.node
    return ReceiverPlan(
        ae_title=node.ae_title,
        host=node.host,
        port=node.port,
        data_dir=str(node.data_dir),
        callers=tuple(_caller(peer) for peer in settings.peers),
        accept_any_calling_ae=node.accept_any_calling_ae,
        share_port=settings.workers.receivers > 1,
        max_associations=node.max_associations,
        min_free_bytes=settings.intake.min_free_mib * 1024**2,
        log_level=node.log_level.value,
    )


def _caller(peer: Peer) -> Caller:
    return Caller(
        name=peer.name,
        ae_titles=peer.ae_titles,
        host=peer.host,
        any_host=peer.any_host,
        may_store=peer.has_role(Role.SOURCE),
    )
