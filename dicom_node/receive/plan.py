"""What a receiver process has to know, as plain JSON.

The supervisor sends one line on the receiver's standard input; each later line replaces the plan. The receiver so needs
neither the settings file nor pydantic, and cannot disagree with the service about either.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from dicom_node.errors import Permanent
from dicom_node.net.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer as the front door sees it.

    Attributes
    ----------
    name : str
        The peer's name in the settings, for the log.
    ae_titles : tuple of str
        Calling AE titles it may use.
    host : str
        Host name or address its associations must come from.
    any_host : bool
        Whether `host` does not matter.
    may_store : bool
        Whether it may send objects, and ask whether we hold them; other peers may only echo.
    further_hosts : tuple of str
        Other host names, addresses and networks (``10.1.2.0/24``) its associations may come from.
    needs_tls : bool
        Whether it has to call by TLS.
    tls_name : str
        DNS name or address that the certificate it shows must hold; empty: any.
    max_associations : int
        Associations it may have open at once; 0: as many as are served.
    max_pdu_bytes : int
        Largest PDU that we ask it for; 0: that of the plan.
    network_timeout_s : float
        Its longest silence; 0: that of the plan.
    may_report : bool
        Whether it is asked for storage commitment, so that it may report.
    has_port : bool
        Whether it can be called back.
    """

    name: str
    ae_titles: tuple[str, ...]
    host: str
    any_host: bool = False
    may_store: bool = True
    further_hosts: tuple[str, ...] = ()
    needs_tls: bool = False
    tls_name: str = ""
    max_associations: int = 0
    max_pdu_bytes: int = 0
    network_timeout_s: float = 0.0
    may_report: bool = False
    has_port: bool = True

    @property
    def origins(self) -> tuple[str, ...]:
        """Every host name, address and network its associations may come from."""
        return (self.host, *self.further_hosts)


@dataclass(frozen=True, slots=True)
class TlsDoor:
    """The port on which the receiver speaks TLS.

    Attributes
    ----------
    port : int
        0 picks a free one.
    files : TlsFiles
        Ours, and the authorities of the peers.
    require_certificate : bool
        Whether a peer has to show a certificate.
    warn_days : int
        Our certificate is warned of when it expires within so many days.
    """

    port: int
    files: TlsFiles
    require_certificate: bool = True
    warn_days: int = 30


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """Everything one receiver process works by.

    Attributes
    ----------
    ae_title, host, port : str, str, int
        Who we are and where we listen; port 0 picks a free one.
    data_dir : str
        The node's data folder, absolute.
    callers : tuple of Caller
        The allow-list.
    accept_any_calling_ae : bool
        Whether unknown callers are accepted as well.
    share_port : bool
        Whether several receivers listen on the port.
    max_associations : int
        Associations served at once by this process.
    min_free_bytes : int
        Free space below which peers are asked to send again later.
    max_message_bytes : int
        Largest data set.
    network_timeout_s, acse_timeout_s, drain_s : float
        Longest silence in an association; longest wait for an association request; longest wait for open associations
        when the process is told to stop.
    report_wait_s : float
        How long a peer without a port that asked for storage commitment may wait for the report on its association.
    log_level : str
        Name of a level of `logging`.
    max_pdu_bytes : int
        Largest PDU that peers are asked for.
    tls : TlsDoor or None
        Where and how TLS is spoken.
    tls_only : bool
        Whether no plain port is opened.
    """

    ae_title: str
    host: str
    port: int
    data_dir: str
    callers: tuple[Caller, ...] = ()
    accept_any_calling_ae: bool = False
    share_port: bool = False
    max_associations: int = 64
    min_free_bytes: int = 512 * 1024**2
    max_message_bytes: int = 1024**3
    network_timeout_s: float = 60.0
    acse_timeout_s: float = 30.0
    drain_s: float = 20.0
    report_wait_s: float = 5.0
    log_level: str = "INFO"
    max_pdu_bytes: int = 131_072
    tls: TlsDoor | None = None
    tls_only: bool = False

    def to_line(self) -> str:
        """Return the plan as one line of JSON, line end included."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> ReceiverPlan:
        """Read a plan.

        Raises
        ------
        Permanent
            ``receiver_plan`` when the line is not a plan of this version.
        """
        try:
            raw: dict[str, Any] = json.loads(line)
            callers = tuple(_caller(caller) for caller in raw.pop("callers", ()))
            tls = _tls_door(raw.pop("tls", None))
            return cls(**raw, callers=callers, tls=tls)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Permanent("receiver_plan", f"not a receiver plan: {type(error).__name__}") from error


def _caller(raw: dict[str, Any]) -> Caller:
    """Make the lists of JSON tuples again."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Caller(**fields)


def _tls_door(raw: dict[str, Any] | None) -> TlsDoor | None:
    if raw is None:
        return None
    files = raw["files"]
    return TlsDoor(**{**raw, "files": TlsFiles(**{**files, "authorities": tuple(files["authorities"])})})
