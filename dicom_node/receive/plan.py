"""What a receiver process has to know, as plain JSON.

The supervisor sends one line on the receiver's standard input; each later line replaces the plan. The receiver so needs
neither the settings file nor pydantic, and cannot disagree with the service about either.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from dicom_node.errors import Permanent


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer as the front door sees it.

    Attributes
    ----------
    name : str
        The peer's name in the settings, for the log.
    ae_titles : tuple of str
        Calling AE titles it may use.
    host : str
        Host name or address its associations must come from.
    any_host : bool
        Whether `host` does not matter.
    may_store : bool
        Whether it may send objects; other peers may only echo.
    """

    name: str
    ae_titles: tuple[str, ...]
    host: str
    any_host: bool = False
    may_store: bool = True


@dataclass(frozen=True, slots=True)
class ReceiverPlan:
    """Everything one receiver process works by.

    Attributes
    ----------
    ae_title, host, port : str, str, int
        Who we are and where we listen; port 0 picks a free one.
    data_dir : str
        The node's data folder, absolute.
    callers : tuple of Caller
        The allow-list.
    accept_any_calling_ae : bool
        Whether unknown callers are accepted as well.
    share_port : bool
        Whether several receivers listen on the port.
    max_associations : int
        Associations served at once by this process.
    min_free_bytes : int
        Free space below which peers are asked to send again later.
    max_message_bytes : int
        Largest data set.
    network_timeout_s, acse_timeout_s, drain_s : float
        Longest silence in an association; longest wait for an association request; longest wait for open associations
        when the process is told to stop.
    log_level : str
        Name of a level of `logging`.
    """

    ae_title: str
    host: str
    port: int
    data_dir: str
    callers: tuple[Caller, ...] = ()
    accept_any_calling_ae: bool = False
    share_port: bool = False
    max_associations: int = 64
    min_free_bytes: int = 512 * 1024**2
    max_message_bytes: int = 1024**3
    network_timeout_s: float = 60.0
    acse_timeout_s: float = 30.0
    drain_s: float = 20.0
    log_level: str = "INFO"

    def to_line(self) -> str:
        """Return the plan as one line of JSON, line end included."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> ReceiverPlan:
        """Read a plan.

        Raises
        ------
        Permanent
            ``receiver_plan`` when the line is not a plan of this version.
        """
        try:
            raw: dict[str, Any] = json.loads(line)
            callers = tuple(
                Caller(**{**caller, "ae_titles": tuple(caller["ae_titles"])}) for caller in raw.pop("callers", ())
            )
            return cls(**raw, callers=callers)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Permanent("receiver_plan", f"not a receiver plan: {type(error).__name__}") from error
