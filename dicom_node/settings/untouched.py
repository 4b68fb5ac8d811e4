"""`python -m dicom_node.settings.untouched FILE`: whether a settings file still has the example peers of the template.

The unit asks before it starts the node (``ExecCondition=``), and so does the package after an installation: a node that
talks to the addresses of an example helps nobody. Only the hosts of peers are looked at, whatever else the file holds.
Exit codes: 0 the node may start (a file with faults too: `serve` names them), 1 it may not, with the reason on standard
error.
"""

from __future__ import annotations

import ipaddress
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

#: Addresses kept for documentation (RFC 5737, RFC 3849): no host ever has one.
_EXAMPLE_NETWORKS: Final = tuple(
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)
_HOST_KEYS: Final = ("host", "hosts")


def example_hosts(text: str) -> tuple[str, ...]:
    r"""Return the hosts of peers in some settings that are addresses of an example.

    Parameters
    ----------
    text : str
        Settings as TOML; text that is none has no peers.

    Examples
    --------
    >>> example_hosts('[[peers]]\nname = "pacs"\nhost = "192.0.2.10"')
    ('192.0.2.10',)
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    peers = raw.get("peers", [])
    return tuple(
        host
        for peer in (peers if isinstance(peers, list) else [])
        if isinstance(peer, Mapping)
        for host in _hosts(peer)
        if _is_example(host)
    )


def _hosts(peer: Mapping[str, Any]) -> Iterator[str]:
    for key in _HOST_KEYS:
        value = peer.get(key)
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _is_example(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _EXAMPLE_NETWORKS)


def main(file: str) -> int:
    """Say whether the node may start with this file."""
    try:
        found = example_hosts(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return 0
    if found:
        sys.stderr.write(
            f"not started: {file} still has example peers ({', '.join(found)}). Put your own in their place, then:"
            f" jmmda-node config check {file}\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
