"""The section ``[audit]`` of node.toml: where audit events go."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from dicom_node.settings.sections import Host, Port, Section


class AuditTo(StrEnum):
    """Where audit events go."""

    NONE = "none"
    FILE = "file"
    UDP = "udp"
    TCP = "tcp"
    UNIX = "unix"


class AuditSettings(Section):
    """Audit events (DICOM PS3.15 A.5, the successor of RFC 3881) for who watches over the hospital. docs/audit.md."""

    to: AuditTo = Field(
        default=AuditTo.NONE,
        description="none; file; udp or tcp (syslog by RFC 5424 at host and port); unix (syslog on this machine).",
    )
    host: Host = Field(default="127.0.0.1", description="Syslog server, for udp and tcp.")
    port: Port = Field(default=514, description="Its port.")
    socket: Path = Field(default=Path("/dev/log"), description="Datagram socket of the local syslog, for unix.")
    file: Path | None = Field(
        default=None, description="One event a line, for file; left out: DATA_DIR/audit.xml. Relative to this file."
    )
    file_max_mib: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10, description="Size at which a file is put aside and a new one begun (MiB)."
    )
    file_keep: Annotated[int, Field(ge=1, le=1000)] = Field(default=20, description="Files put aside that are kept.")
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000,
        description="Events that wait while the target is away. Beyond that the newest are lost and counted; nothing"
        " else ever waits for them.",
    )
    site: Annotated[str, StringConstraints(pattern=r"^[ -~]{0,64}$")] = Field(
        default="", description="AuditEnterpriseSiteID, the name of the site in every event; may stay empty."
    )
