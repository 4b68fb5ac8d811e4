"""Whom we call: the little that the network verbs have to know about a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dicom_node.net.endpoint import WebEndpoint
from dicom_node.net.tls import TlsCall


class RemoteEntity(Protocol):
    """A remote application entity; `dicom_node.settings.Peer` is one."""

    @property
    def name(self) -> str:
        """Our own short name for it."""

    @property
    def called_ae_title(self) -> str:
        """The title by which we call it."""

    @property
    def host(self) -> str:
        """Host name or address."""

    @property
    def port(self) -> int | None:
        """TCP port; None when it cannot be called."""

    @property
    def tls_call(self) -> TlsCall | None:
        """How it is called by TLS; None when it is called without."""

    @property
    def pdu_bytes(self) -> int | None:
        """Largest P-DATA-TF PDU that we ask it for; None for the default."""

    @property
    def web(self) -> WebEndpoint | None:
        """Its DICOMweb service, where images are stored that way."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote application entity that stands in no settings file."""

    name: str
    called_ae_title: str
    host: str
    port: int | None
    tls_call: TlsCall | None = None
    pdu_bytes: int | None = None
    web: WebEndpoint | None = None
