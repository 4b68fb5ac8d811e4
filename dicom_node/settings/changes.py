"""What differs between two settings, key by key, and what each difference means for a running node.

Peers are told apart by their names and routes by their senders, so that moving an entry within the file is no change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from dicom_node.settings.model import Settings

#: Keys that are in use for as long as the processes run: an open port, an open ledger, UIDs of what is under way.
NEEDS_RESTART: Final = frozenset(
    {
        "node.host",
        "node.port",
        "node.data_dir",
        "node.node_id",
        "tls.port",
        "ledger.url",
        "workers.receivers",
    }
)

#: Arrays of tables, and the key that names an entry.
_NAMED_BY: Final = {"peers": "name", "routes": "from_ae"}


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs.

    Attributes
    ----------
    key : str
        Dotted; an entry of an array goes by its name (``peers.pacs.port``, ``routes.CT1``).
    before, after : object
        JSON values; None where the key, or the whole entry, is not there.
    needs_restart : bool
        Whether a running node cannot take it by a reload.
    new_uids : bool
        Whether results of the same images get other UIDs, so that they stand beside earlier ones in the PACS.
    """

    key: str
    before: object
    after: object
    needs_restart: bool
    new_uids: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def changes(before: Settings, after: Settings) -> list[Change]:
    """Compare two settings.

    Parameters
    ----------
    before, after : Settings
        Effective settings, so a default that is written out is no change.

    Returns
    -------
    list of Change
        In the order of the sections.
    """
    found = list(_differences("", _named(before), _named(after)))
    return [
        Change(key, old, new, needs_restart=key in NEEDS_RESTART, new_uids=_makes_new_uids(key, before, after))
        for key, old, new in found
    ]


def _named(settings: Settings) -> dict[str, Any]:
    """JSON values of all settings, arrays of tables as tables by name."""
    values = settings.model_dump(mode="json")
    for section, name in _NAMED_BY.items():
        values[section] = {entry[name]: entry for entry in values[section]}
    return values


def _differences(
    prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, object, object]]:
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{prefix}{key}.", old, new)
        elif old != new:
            yield f"{prefix}{key}", old, new


def _makes_new_uids(key: str, before: Settings, after: Settings) -> bool:
    """Whether a key enters the UIDs: the bundle, the node's identity, and what the output's own fingerprint says."""
    section, _, name = key.partition(".")
    if section == "output":
        changed = before.output.model_copy(update={name: getattr(after.output, name)})
        return changed.fingerprint() != before.output.fingerprint()
    return key in ("node.node_id", "model.bundle")
