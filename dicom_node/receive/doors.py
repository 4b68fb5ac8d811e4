"""The ports of a receiver: a plain one, one of DICOM TLS, or both, with the same handlers behind them."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from pynetdicom.association import Association

from dicom_node.errors import Permanent
from dicom_node.net.certificates import certificate_facts
from dicom_node.net.listener import Handlers, Limits, Listener, OnTlsFailure, Secure
from dicom_node.net.tls import server_context
from dicom_node.receive.plan import ReceiverPlan

_LOGGER: Final = logging.getLogger(__name__)

#: Fields of a plan that an open port cannot take on; a plan that changes one needs a new process.
_FIXED: Final = ("host", "port", "data_dir", "share_port", "tls_only")


class Doors:
    """Listens until closed.

    Parameters
    ----------
    plan : ReceiverPlan
        Says where, and with which certificate.
    handlers : Handlers
        pynetdicom event handlers.
    on_tls_failure : callable
        Told of every peer with which no secure connection came about.

    Raises
    ------
    OSError
        When an address cannot be listened on.
    Transient
        ``tls_files`` when certificate, key or authorities cannot be used.
    """

    def __init__(self, plan: ReceiverPlan, handlers: Handlers, on_tls_failure: OnTlsFailure) -> None:
        self._plan = plan
        self._on_tls_failure = on_tls_failure
        secure = self._secure(plan)
        self._plain: Listener | None = None
        self._tls: Listener | None = None
        if not plan.tls_only:
            self._plain = Listener(
                plan.ae_title, (plan.host, plan.port), handlers, _limits(plan), share_port=plan.share_port
            )
        if plan.tls is not None:
            with contextlib.ExitStack() as undo:
                if self._plain is not None:
                    undo.callback(self._plain.close)
                place = (plan.host, plan.tls.port)
                limits = _limits(plan)
                self._tls = Listener(plan.ae_title, place, handlers, limits, share_port=plan.share_port, secure=secure)
                undo.pop_all()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the plain door; of the TLS one where that is the only one."""
        listener = self._plain or self._tls
        assert listener is not None
        return listener.address

    @property
    def tls_port(self) -> int | None:
        """Port of the TLS door."""
        return self._tls.address[1] if self._tls is not None else None

    @property
    def associations(self) -> list[Association]:
        """Associations and connections that are alive now."""
        return [assoc for listener in self._listeners for assoc in listener.associations]

    def reload(self, plan: ReceiverPlan) -> None:
        """Take new limits, and read the files of TLS anew; open associations go on.

        Raises
        ------
        Permanent
            ``needs_restart`` when the plan moves a port or the data folder; everything then stays as it was.
        Transient
            ``tls_files``, likewise.
        """
        changed = [name for name in _FIXED if getattr(plan, name) != getattr(self._plan, name)]
        if (plan.tls and plan.tls.port) != (self._plan.tls and self._plan.tls.port):
            changed.append("tls.port")
        if changed:
            raise Permanent("needs_restart", f"{', '.join(changed)} cannot change while the receiver runs")
        secure = self._secure(plan)
        if self._tls is not None and secure is not None:
            self._tls.set_secure(secure)
        for listener in self._listeners:
            listener.set_limits(_limits(plan))
        self._plan = plan

    def close(self) -> None:
        """Stop accepting; associations that are open go on."""
        for listener in self._listeners:
            listener.close()

    @property
    def _listeners(self) -> tuple[Listener, ...]:
        return tuple(listener for listener in (self._plain, self._tls) if listener is not None)

    def _secure(self, plan: ReceiverPlan) -> Secure | None:
        if plan.tls is None:
            return None
        context = server_context(plan.tls.files, require_certificate=plan.tls.require_certificate)
        facts = certificate_facts(plan.tls.files.certificate)
        if facts.days_left() < plan.tls.warn_days:
            _LOGGER.warning(
                "our certificate %s expires on %s: renew it, then reload", plan.tls.files.certificate, facts.not_after
            )
        return Secure(context, self._on_tls_failure)


def _limits(plan: ReceiverPlan) -> Limits:
    return Limits(
        max_associations=plan.max_associations,
        network_timeout_s=plan.network_timeout_s,
        acse_timeout_s=plan.acse_timeout_s,
        max_message_bytes=plan.max_message_bytes,
        max_pdu_bytes=plan.max_pdu_bytes,
    )
