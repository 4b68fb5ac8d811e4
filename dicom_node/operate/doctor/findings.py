"""What a check found: passed, warned or failed, what was seen, and who has to change what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

#: Who has to act, where it is not the administrator of a peer (`administrator_of`).
US: Final = "us"
NETWORK: Final = "network"

#: Every check: what it asks. The part before the dot is its group; docs/doctor.md is generated from this table.
CHECKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "settings.file": "The settings file can be read and has no fault.",
        "settings.in_force": "A running node works by this very file, and took its last reload.",
        "settings.titles": "AE titles are such that every system takes them, and ours belongs to nobody else.",
        "data.folder": "`node.data_dir` is there.",
        "data.owner": "It belongs to the user of the node.",
        "data.mode": "Nobody else may look into it (mode 0700): it holds patient data.",
        "data.writable": "A file can be written there and made durable.",
        "data.hard_links": "Its file system knows hard links, by which received files change folders without a gap.",
        "data.file_system": "It is on a local file system; locks and the ledger are not safe on a network share.",
        "data.space": "There is more free space than `intake.min_free_mib`.",
        "data.inodes": "There are free inodes for the files of some studies.",
        "ledger.open": "The ledger opens, is whole, and is of this version.",
        "ledger.dead_letters": "Nothing stands in the dead letter.",
        "ledger.pending": "No delivery has failed and waits for its next try.",
        "node.running": "The node runs.",
        "node.progress": "Its service gives signs of life, and every loop keeps to its limit.",
        "node.port": "Our own process listens on `node.port`, or nobody while the node is stopped.",
        "peer.name": "The host of the peer is an address, or its name resolves to one.",
        "peer.connection": "Its port can be reached by TCP.",
        "peer.association": "It accepts an association under its AE title and ours.",
        "peer.echo": "It answers a C-ECHO.",
        "peer.store": "Role destination: it accepts the class of our results in an encoding that we send.",
        "peer.query": "Role query: it accepts Study Root C-FIND.",
        "peer.commitment": "Role commitment: it accepts Storage Commitment (push model).",
        "back.address": "We listen at an address by which the peer can reach us.",
        "back.door": "The running node answers at that address under its own AE title, and accepts CT from sources.",
        "back.refused": "No association was turned away lately (by the journal of refusals that `status` shows).",
        "back.seen": "Role source: the peer has sent to us, lately.",
        "model.bundle": "The model bundle is whole: card, contract version, hash.",
        "model.phantom": "Results of this bundle may leave for peers, and ought to.",
        "model.device": "A worker process loads the bundle on the device and passes its self-test.",
        "machine.clock": "The clock of this machine is synchronised.",
        "machine.time_zone": "`output.time_zone` is the zone of this machine.",
        "machine.unit": "A systemd unit starts the node.",
        "tls.certificates": "Certificates can be read, belong to their keys, and are valid for some time to come.",
    }
)

#: Titles of the groups, in the order in which they are shown.
GROUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "settings": "Settings",
        "data": "Data folder",
        "ledger": "Ledger",
        "node": "Processes",
        "peer": "From us to the peers",
        "back": "From the peers to us",
        "tls": "Certificates",
        "model": "Model",
        "machine": "This machine",
    }
)


class Mark(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - a word, not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one check.

    Attributes
    ----------
    check : str
        Key of `CHECKS`.
    mark : Mark
        How it ended.
    seen : str
        What was seen, both values where two differ.
    who, remedy : str
        Who has to change what; empty when it passed.
    peer : str
        Name of the peer that it is about; empty when it is about us.
    """

    check: str
    mark: Mark
    seen: str
    who: str = ""
    remedy: str = ""
    peer: str = ""

    @property
    def group(self) -> str:
        """Key of `GROUPS`."""
        return self.check.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def passed(check: str, seen: str, *, peer: str = "") -> Finding:
    """Return a finding of a check that passed."""
    return Finding(check, Mark.PASS, seen, peer=peer)


def warned(check: str, seen: str, who: str, remedy: str, *, peer: str = "") -> Finding:
    """Return a finding of something that may be meant so, or will become a failure."""
    return Finding(check, Mark.WARN, seen, who, remedy, peer)


def failed(check: str, seen: str, who: str, remedy: str, *, peer: str = "") -> Finding:
    """Return a finding of something that keeps the node from its work."""
    return Finding(check, Mark.FAIL, seen, who, remedy, peer)


def administrator_of(peer: str) -> str:
    """Say who administers a peer."""
    return f"administrator of {peer}"
