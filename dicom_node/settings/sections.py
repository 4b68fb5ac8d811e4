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
from dicom_node.settings.values import check_ae_title, check_host, check_origin

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


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


def at_key(key: str, reason: str) -> PydanticCustomError:
    """Error of a rule about several keys of one section, blamed on one of them."""
    return PydanticCustomError("at_key", "{reason}", {"key": key, "reason": reason})


AeTitle = Annotated[str, AfterValidator(check_ae_title)]
Host = Annotated[str, AfterValidator(check_host)]
Origin = Annotated[str, AfterValidator(check_origin)]
Port = Annotated[int, Field(ge=1, le=65535)]
PduBytes = Annotated[int, Field(ge=4096, le=1_048_576)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
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
    max_pdu_bytes: PduBytes = Field(
        default=131_072,
        description="Largest PDU that we ask peers for, in bytes. A peer may have a smaller one of its own.",
    )
    network_timeout_s: Seconds = Field(
        default=60.0,
        description="Longest silence of a peer within an association that it opened, and longest time for one PDU to"
        " arrive. A peer may have one of its own.",
    )
    acse_timeout_s: Seconds = Field(
        default=30.0,
        description="Longest time from the connection of a peer to its association request, TLS handshake included.",
    )
    accept_any_calling_ae: bool = Field(
        default=False, description="true: accept AE titles that no peer lists. For a closed test network only."
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO, description="DEBUG, INFO, WARNING or ERROR. Logs never hold patient data."
    )


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


class CommitmentSettings(Section):
    """How long a destination has to confirm that it keeps a result. docs/commitment.md says how it works together."""

    same_association_s: Annotated[float, Field(ge=0, le=600)] = Field(
        default=5.0,
        description="How long an association stays open after a request for the report that may come over it; for a "
        "peer that asks us and has no port, how long it may wait for ours.",
    )
    report_timeout_s: Seconds = Field(
        default=3600.0, description="Longest wait for a report; then the peer is asked again."
    )
    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5,
        description="Requests for one result: after the last without a report it stays DELIVERED, not confirmed; after"
        " the last that was answered with failures it goes to the dead letter.",
    )


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
