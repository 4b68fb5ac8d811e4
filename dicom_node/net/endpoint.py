"""Where and as whom we speak DICOMweb to a peer. Standard library only, so that the settings can name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WebEndpoint:
    """A DICOMweb service and the files that open it; no secret stands here.

    Attributes
    ----------
    url : str
        Root of the service, to which ``/studies`` is added (PS3.18 section 8.2); without a slash at its end.
    token_file : Path or None
        Holds a bearer token (RFC 6750).
    credentials_file : Path or None
        Holds ``user:password`` (RFC 7617).
    ca_file : Path or None
        Certificates of the authorities that are trusted; None trusts those of the system.
    certificate_file, key_file : Path or None
        Our own certificate and its key; the key may stand in the file of the certificate.
    """

    url: str
    token_file: Path | None = None
    credentials_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
