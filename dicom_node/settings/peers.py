"""A peer: one DICOM application we talk to, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, model_validator

from dicom_node.errors import Permanent
from dicom_node.net.endpoint import WebEndpoint
from dicom_node.net.tls import TlsCall
from dicom_node.settings.sections import AeTitle, Host, Name, Origin, PduBytes, Port, Role, Seconds, Section, at_key
from dicom_node.settings.web import at_web_host, check_web_url, not_always_required, web_fault


class Peer(Section):
    """One DICOM application we talk to."""

    model_config = ConfigDict(json_schema_extra=not_always_required)

    name: Name = Field(description="Our own short name for the peer, used by routes and commands.")
    ae_titles: tuple[AeTitle, ...] = Field(
        description="Its AE titles. We call it by the first one; it may call us by any of them. With dicomweb_url, a"
        " peer that is a destination alone needs neither ae_titles nor host."
    )
    host: Host = Field(description="Host name or IP address: where we send, and where its associations must come from.")
    port: Port | None = Field(
        default=None, description="Its port. May be left out when the peer only sends to us (role source alone)."
    )
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = Field(
        description="What it is: source (sends CT), destination (gets results), query (answers C-FIND: it is asked how "
        "many images it holds of what it sends, and jmmda-node pull fetches from it), commitment (is asked to confirm "
        "that it keeps results; docs/commitment.md)."
    )
    committed_by: Name | None = Field(
        default=None,
        description="For a destination: name of the peer with role commitment that confirms what is sent there; left "
        "out: itself, when it has that role.",
    )
    any_host: bool = Field(
        default=False,
        description="true: accept its AE titles from any address. For peers behind NAT or with changing addresses.",
    )
    hosts: tuple[Origin, ...] = Field(
        default=(),
        description="Further host names, addresses or networks (10.1.2.0/24) that its associations may come from.",
    )
    tls: bool = Field(
        default=False,
        description="true: we call it by TLS, and it has to call us by TLS. Section [tls] says with what.",
    )
    tls_ca: Path | None = Field(
        default=None,
        description="Authority of its certificate, or that certificate itself (PEM); left out: ca of [tls].",
    )
    tls_name: Host | None = Field(
        default=None,
        description="DNS name or address that its certificate must hold, also when it calls us; left out: host, and"
        " only when we call it.",
    )
    max_associations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Associations that it may have open at once, in each receiver process; left out: as many as the"
        " node serves.",
    )
    max_pdu_bytes: PduBytes | None = Field(
        default=None, description="Largest PDU that we ask it for, in bytes; left out: that of [node]."
    )
    network_timeout_s: Seconds | None = Field(
        default=None, description="Its longest silence within an association; left out: that of [node]."
    )
    association_timeout_s: Seconds | None = Field(
        default=None,
        description="Longest wait for it to connect, accept or answer when results are sent; left out: that of"
        " [delivery].",
    )
    dicomweb_url: Annotated[str, AfterValidator(check_web_url)] | None = Field(
        default=None,
        description="Root of its DICOMweb service: results go there by STOW-RS (POST to dicomweb_url/studies) instead"
        " of C-STORE. https, unless it is this machine or nothing secret is sent.",
    )
    dicomweb_token_file: Path | None = Field(default=None, description="File with a bearer token for dicomweb_url.")
    dicomweb_credentials_file: Path | None = Field(
        default=None, description="File with user:password for dicomweb_url, instead of a token."
    )
    dicomweb_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for dicomweb_url; left out: those of the system."
    )
    dicomweb_certificate_file: Path | None = Field(
        default=None, description="Our client certificate (PEM) for dicomweb_url."
    )
    dicomweb_key_file: Path | None = Field(
        default=None, description="Its key (PEM, not encrypted); left out: it stands in the file of the certificate."
    )

    _tls_call: TlsCall | None = PrivateAttr(default=None)
    _node_pdu_bytes: int | None = PrivateAttr(default=None)

    @property
    def tls_call(self) -> TlsCall | None:
        """How it is called by TLS, None for without; the files are those that `Settings` handed out.

        Raises
        ------
        Permanent
            ``tls_files`` when the peer belongs to no settings, so that it is never called without by mistake.
        """
        if self.tls and self._tls_call is None:
            raise Permanent(
                "tls_files", f"peer {self.name!r} wants TLS, but stands in no settings with a section [tls]"
            )
        return self._tls_call if self.tls else None

    @property
    def pdu_bytes(self) -> int | None:
        """Largest PDU that it is asked for: its own, else that of the node; None when it stands in no settings."""
        return self.max_pdu_bytes or self._node_pdu_bytes

    @property
    def origins(self) -> tuple[str, ...]:
        """Every host name, address and network that its associations may come from."""
        return (self.host, *self.hosts)

    @property
    def called_ae_title(self) -> str:
        """The title by which we call the peer: the first of `ae_titles`; empty for a DICOMweb service alone."""
        return next(iter(self.ae_titles), "")

    @property
    def web(self) -> WebEndpoint | None:
        """The DICOMweb service of the peer, None where it has none."""
        if self.dicomweb_url is None:
            return None
        return WebEndpoint(
            self.dicomweb_url,
            self.dicomweb_token_file,
            self.dicomweb_credentials_file,
            self.dicomweb_ca_file,
            self.dicomweb_certificate_file,
            self.dicomweb_key_file,
        )

    def has_role(self, role: Role | str) -> bool:
        """Whether the peer has a role."""
        return Role(role) in self.roles

    _host_of_url = model_validator(mode="before")(at_web_host)

    @model_validator(mode="after")
    def _port_where_we_connect(self) -> Peer:
        called_for = set(self.roles) - {Role.SOURCE}
        if self.web is not None:
            called_for -= {Role.DESTINATION}
        if self.port is None and called_for:
            raise at_key("port", "required, because we connect to a peer with role destination, query or commitment")
        return self

    @model_validator(mode="after")
    def _web_is_whole(self) -> Peer:
        if not self.ae_titles and (self.web is None or set(self.roles) != {Role.DESTINATION}):
            raise at_key("ae_titles", "needs at least one entry")
        fault = web_fault(self)
        if fault is not None:
            raise at_key(*fault)
        return self
