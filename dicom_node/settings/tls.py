"""Section ``[tls]`` of node.toml, and how its files reach the peers that are called by TLS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dicom_node.net.tls import CREDENTIALS, TlsCall, TlsFiles
from dicom_node.settings.peers import Peer
from dicom_node.settings.sections import Port, Section


class TlsSettings(Section):
    """DICOM TLS (TLS 1.2 and 1.3, BCP 195 profile). docs/tls.md says how certificates are made and renewed.

    A file name may begin with ``$CREDENTIALS_DIRECTORY/``, which systemd fills by LoadCredential=. Renewed files come
    into use by a reload (SIGHUP); associations that are open go on.
    """

    port: Port | None = Field(
        default=None,
        description="TCP port for TLS beside the plain one of [node]; the same number: that port speaks TLS alone; left"
        " out: nobody can call by TLS. 2762 is the registered one.",
    )
    certificate: Path | None = Field(
        default=None,
        description="Our certificate and what leads from it to its authority (PEM, ours first). A relative path counts"
        " from the folder of this file; $CREDENTIALS_DIRECTORY/NAME is a credential of the systemd unit.",
    )
    key: Path | None = Field(
        default=None,
        description="Its private key (PEM, without password, not readable by everybody); left out: it stands in the"
        " file of the certificate.",
    )
    ca: Path | None = Field(
        default=None,
        description="Authorities of the peers' certificates, or these certificates themselves (PEM). The authorities of"
        " the operating system are not trusted.",
    )
    require_client_certificate: bool = Field(
        default=True, description="Whether a peer that calls us by TLS has to show a certificate of a known authority."
    )

    warn_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        default=30, description="A certificate of ours that expires within so many days is warned of."
    )

    def files(self, authorities: Sequence[Path]) -> TlsFiles | None:
        """Return our files together with some authorities; None without a certificate."""
        if self.certificate is None:
            return None
        key = str(self.key) if self.key is not None else ""
        return TlsFiles(str(self.certificate), key, tuple(dict.fromkeys(map(str, authorities))))

    def call_to(self, peer: Peer) -> TlsCall | None:
        """Return how a peer is called by TLS; None when it is called without."""
        files = self.files([ca for ca in (peer.tls_ca or self.ca,) if ca is not None])
        return TlsCall(files, peer.tls_name or peer.host) if peer.tls and files is not None else None

    def call_to_host(self, host: str) -> TlsCall | None:
        """Return how somebody who is no peer is called by TLS; None without a certificate or an authority."""
        files = self.files([self.ca] if self.ca is not None else [])
        return TlsCall(files, host) if files is not None and files.authorities else None

    def listening_files(self, peers: Sequence[Peer]) -> TlsFiles | None:
        """Return what the listening side works with: every authority of every peer; None when it has no TLS port."""
        authorities = [ca for ca in (self.ca, *(peer.tls_ca for peer in peers)) if ca is not None]
        return self.files(authorities) if self.port is not None else None


def absolute(path: Path | None, base: Path) -> Path | None:
    """Resolve the name of a file against the folder of the settings; a credential keeps its name."""
    if path is None or str(path).startswith(CREDENTIALS):
        return path
    return base / path.expanduser()
