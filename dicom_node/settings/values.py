"""Values that occur in several sections: AE titles, hosts, and where associations may come from."""

from __future__ import annotations

import ipaddress
import re

_HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:.]+)$")


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


def check_origin(value: str) -> str:
    """Check that a value is a host name, an IP address, or a network written as address/bits.

    Raises
    ------
    ValueError
        When it is none of these, a network with host bits set, or every address there is.
    """
    origin = value.strip()
    if "/" not in origin:
        return check_host(origin)
    try:
        network = ipaddress.ip_network(origin)
    except ValueError as error:
        raise ValueError("must be a host name, an IP address or a network such as 10.1.2.0/24") from error
    if network.prefixlen == 0:
        raise ValueError("is every address there is: name the network, or set any_host")
    return str(network)
