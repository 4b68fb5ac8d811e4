"""The whole of node.toml as one frozen model."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from dicom_node.dicom.eligibility_rules import EligibilitySettings
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.settings.audit import AuditSettings
from dicom_node.settings.checks import Parts, cross_faults
from dicom_node.settings.peers import Peer
from dicom_node.settings.sections import (
    CommitmentSettings,
    DeliverySettings,
    IntakeSettings,
    LedgerSettings,
    ModelSettings,
    NodeSettings,
    OutputSection,
    Role,
    Route,
    Section,
    WorkersSettings,
)
from dicom_node.settings.tls import TlsSettings


class Settings(Section):
    """Effective settings of one node.

    Every section has defaults, so ``Settings()`` is valid: a node that nobody may send to. `load_settings` is the way
    to get settings from a file; it names lines, which this class cannot.
    """

    model_config = ConfigDict(title="jmmda-node settings")

    node: NodeSettings = Field(default_factory=NodeSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()
    intake: IntakeSettings = Field(default_factory=IntakeSettings)
    selection: SelectionSettings = Field(default_factory=SelectionSettings)
    geometry: GeometrySettings = Field(default_factory=GeometrySettings)
    eligibility: EligibilitySettings = Field(default_factory=EligibilitySettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    output: OutputSection = Field(default_factory=OutputSection)
    delivery: DeliverySettings = Field(default_factory=DeliverySettings)
    commitment: CommitmentSettings = Field(default_factory=CommitmentSettings)
    ledger: LedgerSettings = Field(default_factory=LedgerSettings)
    workers: WorkersSettings = Field(default_factory=WorkersSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)

    @model_validator(mode="after")
    def _sections_agree(self) -> Settings:
        reasons = [reason for _, reason in cross_faults(self._parts())]
        if reasons:
            raise ValueError("; ".join(reasons))
        self.hand_out()
        return self

    def hand_out(self) -> None:
        """Give every peer what other sections say of how it is called, so that no caller of a peer can forget it."""
        for peer in self.peers:
            peer._tls_call = self.tls.call_to(peer)
            peer._node_pdu_bytes = self.node.max_pdu_bytes

    def _parts(self) -> Parts:
        return Parts(
            node=self.node,
            tls=self.tls,
            peers=dict(enumerate(self.peers)),
            routes=dict(enumerate(self.routes)),
            peer_names=frozenset(peer.name for peer in self.peers),
            all_peers_valid=True,
            all_routes_valid=True,
        )

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger, the default already filled in."""
        return self.ledger.url or f"sqlite:///{self.node.data_dir / 'ledger.sqlite'}"

    @property
    def audit_file(self) -> Path:
        """Where audit events are written to if they go to a file."""
        return self.audit.file or self.node.data_dir / "audit.xml"

    @property
    def destinations(self) -> tuple[Peer, ...]:
        """Every peer with role destination, in the order of the file."""
        return tuple(peer for peer in self.peers if peer.has_role(Role.DESTINATION))

    def peer(self, name: str) -> Peer | None:
        """Return the peer of that name, or None."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def committer_of(self, destination: str) -> Peer | None:
        """Peer that is asked to confirm what was sent to a destination; None when nobody is asked."""
        peer = self.peer(destination)
        if peer is None:
            return None
        committer = self.peer(peer.committed_by) if peer.committed_by else peer
        return committer if committer is not None and committer.has_role(Role.COMMITMENT) else None

    def peer_of(self, calling_ae: str, host: str) -> Peer | None:
        """Peer that calls under an AE title from an address.

        Parameters
        ----------
        calling_ae : str
            Calling AE title; surrounding spaces do not matter, case does.
        host : str
            Address of the caller. It decides only between several peers with that title: whether a caller may come
            from there at all is the receiver's question.

        Returns
        -------
        Peer or None
            None when no peer lists the title.
        """
        title = calling_ae.strip()
        candidates = [peer for peer in self.peers if title in peer.ae_titles]
        at_host = [peer for peer in candidates if any(_covers(origin, host) for origin in peer.origins)]
        return next(iter(at_host or candidates), None)

    def destinations_for(self, calling_ae: str) -> tuple[Peer, ...]:
        """Peers to which results made from the images of a calling AE title go.

        Without any ``[[routes]]`` these are all peers with role destination; with routes, those that the route of
        this title names, and none for a title without a route.
        """
        if not self.routes:
            return self.destinations
        title = calling_ae.strip()
        names = {name for route in self.routes if route.from_ae == title for name in route.destinations}
        return tuple(peer for peer in self.destinations if peer.name in names)


def _covers(origin: str, address: str) -> bool:
    """Whether an address is meant by a host, address or network of a peer; no name is resolved."""
    if origin == address:
        return True
    try:
        return "/" in origin and ipaddress.ip_address(address) in ipaddress.ip_network(origin)
    except ValueError:
        return False
