"""The rules about the DICOMweb keys of a peer."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from dicom_node.settings.peers import Peer

#: Keys of files that only make sense beside the address.
_FILES: Final = (
    "dicomweb_token_file",
    "dicomweb_credentials_file",
    "dicomweb_ca_file",
    "dicomweb_certificate_file",
    "dicomweb_key_file",
)
_SECRET: Final = _FILES[:2]
_TLS: Final = _FILES[2:]


def check_web_url(value: str) -> str:
    """Check the root of a DICOMweb service and write it without a slash at its end.

    Raises
    ------
    ValueError
        When it is no plain http or https address, or holds credentials.
    """
    text = value.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError("must be an address like https://pacs.example:8443/dicom-web") from error
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not text.isprintable()
        or " " in text
    ):
        raise ValueError("must be an address like https://pacs.example:8443/dicom-web")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold credentials; put them into a file and name it in dicomweb_credentials_file")
    if parts.query or parts.fragment:
        raise ValueError("must be the root of the service, without ? and #")
    return text.rstrip("/")


def at_web_host(data: Any) -> Any:  # noqa: ANN401 - what stands in the file, not judged yet
    """Fill in what a peer with a DICOMweb address need not write: no AE title, and the host of the address."""
    if not isinstance(data, dict) or not isinstance(data.get("dicomweb_url"), str):
        return data
    try:
        host = urlsplit(data["dicomweb_url"].strip()).hostname
    except ValueError:
        host = None
    return {"ae_titles": (), "host": host or "unknown", **data}


def web_fault(peer: Peer) -> tuple[str, str] | None:
    """Return the key and the reason of the first fault between the DICOMweb keys of a peer, or None."""
    written = [key for key in _FILES if getattr(peer, key) is not None]
    if peer.dicomweb_url is None:
        return (written[0], "needs dicomweb_url beside it") if written else None
    secret = [key for key in written if key in _SECRET]
    if len(secret) > 1:
        return secret[1], f"not together with {secret[0]}"
    if peer.dicomweb_key_file is not None and peer.dicomweb_certificate_file is None:
        return "dicomweb_key_file", "needs dicomweb_certificate_file beside it"
    if peer.dicomweb_url.startswith("https:"):
        return None
    if any(key in _TLS for key in written):
        return next(key for key in written if key in _TLS), "needs an https address in dicomweb_url"
    if secret and not _is_this_machine(urlsplit(peer.dicomweb_url).hostname or ""):
        return "dicomweb_url", f"must be https: over http anybody on the way could read what {secret[0]} holds"
    return None


def not_always_required(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that a peer with a DICOMweb address needs neither AE titles nor host."""
    always = [key for key in schema.get("required", []) if key not in ("ae_titles", "host")]
    schema["required"] = always
    schema["anyOf"] = [{"required": ["dicomweb_url"]}, {"required": ["ae_titles", "host"]}]


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
