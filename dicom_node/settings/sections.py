"""The sections of node.toml as frozen pydantic models.

Every field carries its description; `template.py` writes the annotated ``config/node.toml`` from these descriptions, so
the file an administrator edits and the rules that judge it cannot drift apart. Sections that belong to a rule of the
DICOM room (``geometry``, ``eligibility``, ``selection``, ``output``) are defined beside those rules and only assembled
here.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from dicom_node.dicom.companion_rules import CompanionSettings
from dicom_node.dicom.output_rules import OutputSettings

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:.]+)$")


class Role(StrEnum):
    """What a peer may do for the node, or the node for it."""

    SOURCE = "source"
    DESTINATION = "destination"
    QUERY = "query"
    COMMITMENT = "commitment"


class LogLevel(StrEnum):
    """Least severe log message that is written."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LateSlices(StrEnum):
    """What becomes of slices of a series whose result is made, or being made, already."""

    SUPERSEDE = "supersede"
    REOPEN = "reopen"
    REPORT = "report"


class Precision(StrEnum):
    """Arithmetic of the generator."""

    AUTO = "auto"
    FP32 = "fp32"


def check_ae_title(value: str) -> str:
    """Normalise and check an application entity title (value representation AE, PS3.5 section 6.2).

    Parameters
    ----------
    value : str
        The title as written; leading and trailing spaces are not significant and are removed, case is kept.

    Returns
    -------
    str
        The title without surrounding spaces.

    Raises
    ------
    ValueError
        When it is empty, longer than 16 characters, or holds a backslash, a control or a non-ASCII character.
    """
    title = value.strip(" ")
    if not title:
        raise ValueError("an AE title must have at least one character that is not a space")
    if len(title) > 16:
        raise ValueError(f"an AE title has at most 16 characters, this one has {len(title)}")
    if "\\" in title or any(not " " <= character <= "~" for character in title):
        raise ValueError("an AE title may hold printable ASCII characters only, and no backslash")
    return title


def check_host(value: str) -> str:
    """Check that a value looks like a host name or an IP address; nothing is resolved.

    Raises
    ------
    ValueError
        When it holds a scheme, a port, spaces or other characters a host cannot have.
    """
    host = value.strip()
    if not _HOST.match(host):
        raise ValueError("must be a host name or an IP address, without scheme and without port")
    return host


def at_key(key: str, reason: str) -> PydanticCustomError:
    """Error of a rule about several keys of one section, blamed on one of them."""
    return PydanticCustomError("at_key", "{reason}", {"key": key, "reason": reason})


AeTitle = Annotated[str, AfterValidator(check_ae_title)]
Host = Annotated[str, AfterValidator(check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error rather than silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(Section):
    """Who the node is and where it listens."""

    ae_title: AeTitle = Field(
        default="JMMDA_NODE", description="Our AE title. Peers must call us by exactly this title."
    )
    host: Host = Field(default="0.0.0.0", description="Address to listen on; 0.0.0.0 means every interface.")  # noqa: S104 - a server
    port: Port = Field(default=11112, description="TCP port to listen on.")
    data_dir: Path = Field(
        default=Path("/var/lib/jmmda-node"),
        description="Folder of spool, results and ledger. A relative path counts from the folder of this file.",
    )
    node_id: Name = Field(
        default="jmmda-node-1",
        description="Enters the UIDs of results. Keep it for the life of the node: another one makes other results.",
    )
    max_associations: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=64, description="Associations served at once by each receiver process; more are rejected as busy."
    )
    accept_any_calling_ae: bool = Field(
        default=False, description="true: accept AE titles that no peer lists. For a closed test network only."
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="DEBUG, INFO, WARNING or ERROR. Logs never hold patient data."
    )


class Peer(Section):
    """One DICOM application we talk to."""

    name: Name = Field(description="Our own short name for the peer, used by routes and commands.")
    ae_titles: Annotated[tuple[AeTitle, ...], Field(min_length=1)] = Field(
        description="Its AE titles. We call it by the first one; it may call us by any of them."
    )
    host: Host = Field(description="Host name or IP address: where we send, and where its associations must come from.")
    port: Port | None = Field(
        default=None, description="Its port. May be left out when the peer only sends to us (role source alone)."
    )
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] = Field(
        description="What it is: source (sends CT), destination (gets results), query (answers C-FIND: it is asked how "
        "many images it holds of what it sends), commitment (confirms storage)."
    )
    any_host: bool = Field(
        default=False,
        description="true: accept its AE titles from any address. For peers behind NAT or with changing addresses.",
    )

    @property
    def called_ae_title(self) -> str:
        """The title by which we call the peer: the first of `ae_titles`."""
        return self.ae_titles[0]

    def has_role(self, role: Role | str) -> bool:
        """Whether the peer has a role."""
        return Role(role) in self.roles

    @model_validator(mode="after")
    def _port_where_we_connect(self) -> Peer:
        if self.port is None and set(self.roles) != {Role.SOURCE}:
            raise at_key("port", "required, because we connect to a peer with role destination, query or commitment")
        return self


class Route(Section):
    """From which source to which destinations results go."""

    from_ae: AeTitle = Field(description="Calling AE title of a peer with role source.")
    destinations: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="Names of peers with role destination."
    )


class IntakeSettings(Section):
    """When a series counts as complete, and when we stop accepting. docs/completion.md says how it works together."""

    settle_s: Seconds = Field(
        default=2.0,
        description="Quiet time after which a series is complete once its association has closed, where it is without"
        " gaps or as large as the source says.",
    )
    quiet_s: Seconds = Field(
        default=10.0, description="Quiet time after which a series is complete without those signs."
    )
    hard_cap_s: Seconds = Field(
        default=600.0, description="Longest wait since the first instance, whatever still arrives."
    )
    study_quiet_s: Seconds = Field(
        default=5.0,
        description="Quiet time after which the series of a study are compared and one is chosen; settle_s is enough"
        " where the source says that every one is here.",
    )
    find_timeout_s: Seconds = Field(
        default=5.0,
        description="Longest wait for each answer of a peer with role query that is asked how many images it holds"
        " (C-FIND). Nothing else waits for it.",
    )
    expected_patience_s: Seconds = Field(
        default=120.0,
        description="Quiet time after which a series is complete although its source holds more images of it; never"
        " less than quiet_s, and ended by hard_cap_s.",
    )
    late_slices: LateSlices = Field(
        default=LateSlices.SUPERSEDE,
        description="Slices that come after their series was queued: supersede = a new result replaces the old one;"
        " reopen = so, but only while nothing of the old one was sent; report = noted, the result stays.",
    )
    min_free_mib: Annotated[int, Field(ge=0)] = Field(
        default=512,
        description="Free space to keep on data_dir (MiB). Below it peers are told to send again later (0xA700).",
    )

    @model_validator(mode="after")
    def _timers_in_order(self) -> IntakeSettings:
        if not self.settle_s <= self.quiet_s <= self.hard_cap_s:
            raise at_key("quiet_s", "must lie between settle_s and hard_cap_s")
        return self


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


class ModelSettings(Section):
    """Which bundle is run, and on what."""

    bundle: Annotated[str, Field(min_length=1)] = Field(
        default="builtin", description="Model bundle: builtin, or the path of a bundle folder (relative to this file)."
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N."
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="auto: reduced precision on CUDA if the self-test at load holds; fp32: never.",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="CPU threads of the worker; left out: all cores."
    )
    time_limit_s: Seconds = Field(
        default=900.0, description="Longest time for one series; then the worker is stopped and restarted."
    )
    allow_phantom_bundle: bool = Field(
        default=False,
        description="true: send results of a bundle trained on phantom data to peers. Such results are for tests only.",
    )


class DeliverySettings(Section):
    """How patiently results are sent."""

    attempts: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=60, description="Tries before a result goes to the dead letter."
    )
    first_wait_s: Seconds = Field(
        default=5.0, description="Wait after the first failure; it doubles with every further one."
    )
    longest_wait_s: Seconds = Field(default=600.0, description="Ceiling of that wait.")
    association_timeout_s: Seconds = Field(
        default=30.0, description="Longest wait for a peer to connect, accept or answer."
    )

    @model_validator(mode="after")
    def _waits_in_order(self) -> DeliverySettings:
        if self.longest_wait_s < self.first_wait_s:
            raise at_key("longest_wait_s", "must not be shorter than first_wait_s")
        return self


def _check_ledger_url(value: str) -> str:
    if not value.startswith("sqlite:///"):
        raise ValueError("must begin with sqlite:///")
    return value


class LedgerSettings(Section):
    """Where the ledger is kept."""

    url: Annotated[str, AfterValidator(_check_ledger_url)] | None = Field(
        default=None, description="SQLAlchemy URL; left out: sqlite:///DATA_DIR/ledger.sqlite."
    )


class OutputSection(CompanionSettings, OutputSettings):
    """The synthetic series in the PACS and what comes beside it; all but the last three values enter its UIDs."""


class WorkersSettings(Section):
    """How many processes do the work."""

    receivers: Annotated[int, Field(ge=1, le=32)] = Field(
        default=1,
        description="Receiver processes that share the port. One is enough below about 100 images per second.",
    )
