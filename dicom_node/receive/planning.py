"""From the settings to the plan of a receiver. Runs in the supervisor; no receiver process imports it."""

from __future__ import annotations

from dicom_node.receive.plan import Caller, ReceiverPlan, TlsDoor
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
        callers=tuple(_caller(peer) for peer in settings.peers if peer.ae_titles),
        accept_any_calling_ae=node.accept_any_calling_ae,
        share_port=settings.workers.receivers > 1,
        max_associations=node.max_associations,
        min_free_bytes=settings.intake.min_free_mib * 1024**2,
        network_timeout_s=node.network_timeout_s,
        acse_timeout_s=node.acse_timeout_s,
        report_wait_s=settings.commitment.same_association_s,
        log_level=node.log_level.value,
        max_pdu_bytes=node.max_pdu_bytes,
        tls=_tls_door(settings),
        tls_only=settings.tls.port == node.port,
    )


def _tls_door(settings: Settings) -> TlsDoor | None:
    files = settings.tls.listening_files(settings.peers)
    if files is None or settings.tls.port is None:
        return None
    tls = settings.tls
    return TlsDoor(settings.tls.port, files, tls.require_client_certificate, tls.warn_days)


def _caller(peer: Peer) -> Caller:
    return Caller(
        name=peer.name,
        ae_titles=peer.ae_titles,
        host=peer.host,
        any_host=peer.any_host,
        may_store=peer.has_role(Role.SOURCE),
        further_hosts=peer.hosts,
        needs_tls=peer.tls,
        tls_name=peer.tls_name or "",
        max_associations=peer.max_associations or 0,
        max_pdu_bytes=peer.max_pdu_bytes or 0,
        network_timeout_s=peer.network_timeout_s or 0.0,
        may_report=peer.has_role(Role.COMMITMENT),
        has_port=peer.port is not None,
    )
