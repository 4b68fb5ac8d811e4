"""Helpers of the tests of DICOM TLS: authorities and certificates made by openssl, as an administrator makes them."""

from __future__ import annotations

import ssl
import subprocess
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_node.net.tls import TlsCall, TlsFiles

_CONFIG = """\
[ca]
default_ca = here
[here]
dir = {folder}
new_certs_dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
default_md = {digest}
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:true
[entity]
basicConstraints = CA:false
{san}
"""
#: Every cipher that OpenSSL has, weak ones too.
ANY_CIPHER = "ALL:@SECLEVEL=0"

_KEYS = {
    "ec": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("-newkey", "rsa:2048"),
    "weak": ("-newkey", "rsa:1024"),
}


@dataclass(frozen=True)
class Identity:
    """A certificate with its key."""

    certificate: Path
    key: Path

    def files(self, *authorities: Path) -> TlsFiles:
        return TlsFiles(str(self.certificate), str(self.key), tuple(map(str, authorities)))

    def call(self, *authorities: Path, name: str = "localhost") -> TlsCall:
        return TlsCall(self.files(*authorities), name)


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, kind: str = "ec") -> None:
        self.folder = folder
        self._kind = kind
        folder.mkdir(parents=True)
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        self.certificate = self._issue("authority", "", timedelta(days=-1), timedelta(days=30)).certificate

    def issue(
        self,
        name: str,
        *,
        san: str = "DNS:localhost,IP:127.0.0.1",
        starts_in: timedelta = timedelta(days=-1),
        ends_in: timedelta = timedelta(days=30),
        kind: str | None = None,
    ) -> Identity:
        """A certificate for whatever names, valid from and to whatever moment."""
        return self._issue(name, san, starts_in, ends_in, kind)

    def _issue(
        self, name: str, san: str, starts_in: timedelta, ends_in: timedelta, kind: str | None = None
    ) -> Identity:
        made = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        config, request = self.folder / f"{name}.cnf", self.folder / f"{name}.csr"
        names = f"subjectAltName = {san}" if san else ""
        config.write_text(_CONFIG.format(folder=self.folder, san=names, digest="sha256"))
        kind = kind or self._kind
        _openssl("req", "-new", "-nodes", *_KEYS[kind], "-keyout", made.key, "-subj", f"/CN={name}", "-out", request)
        signer = ("-selfsign", "-keyfile", made.key, "-extensions", "authority")
        if name != "authority":
            signer = ("-cert", self.certificate, "-keyfile", self.folder / "authority.key", "-extensions", "entity")
        begin, end = datetime.now(UTC) + starts_in, datetime.now(UTC) + ends_in
        dates = ("-startdate", f"{begin:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}")
        paths = ("-config", config, "-in", request, "-out", made.certificate)
        _openssl("ca", "-batch", "-notext", *signer, *dates, *paths)
        made.key.chmod(0o600)
        return made


def careless_server(
    who: Identity, *authorities: Path, most: ssl.TLSVersion, ciphers: str = ANY_CIPHER
) -> ssl.SSLContext:
    """The context of a server that speaks what we refuse; with authorities it demands a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _make_careless(context, most, ciphers)
    context.load_cert_chain(who.certificate, who.key)
    for authority in authorities:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
    return context


def careless_client(*, most: ssl.TLSVersion, ciphers: str = ANY_CIPHER) -> ssl.SSLContext:
    """The context of a client that shows no certificate, looks at none, and speaks what we refuse."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _make_careless(context, most, ciphers)
    return context


def _make_careless(context: ssl.SSLContext, most: ssl.TLSVersion, ciphers: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0 and 1.1, which is what we are after
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, most
    context.set_ciphers(ciphers)


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
