"""A node for one occasion: its own folder, a free loopback port, a configuration of its own, a real `serve` process.

The demonstration uses it, and so do the measurements in ``benchmarks/`` and the tests with foreign peers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import NodeError, Permanent
from dicom_node.net.remote import Remote
from dicom_node.net.scu import echo

NODE_AE: Final = "JMMDA_NODE"
START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0

_CONFIG = """\
# A throwaway node on the loopback interface.
[node]
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
data_dir = "data"
node_id = "{node_id}"

[intake]
settle_s = {settle_s}
quiet_s = {quiet_s}
study_quiet_s = {study_quiet_s}
min_free_mib = 64

[model]
bundle = {bundle}
device = "{device}"
allow_phantom_bundle = {allow_phantom_bundle}

[delivery]
attempts = 20
first_wait_s = 0.5
longest_wait_s = 2.0
association_timeout_s = 10
"""

_PEER = """
[[peers]]
name = "{name}"
ae_titles = ["{ae_title}"]
host = "127.0.0.1"
port = {port}
roles = ["source", "destination"{more_roles}]

[[routes]]
from_ae = "{ae_title}"
destinations = ["{name}"]
"""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def child_process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child with its output in a log file; end it politely, then firmly."""
    with log.open("ab") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)  # noqa: S603 - our own modules
    try:
        yield child
    finally:
        stop_child(child)


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """Ask a child to end, and kill it when it does not."""
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@dataclass(frozen=True, slots=True)
class ThrowawaySettings:
    """What differs from node.toml's defaults.

    Attributes
    ----------
    peers : tuple of Remote
        Each is source and destination, with a route back to itself.
    bundle, device : str
        As in section ``[model]``; a bundle path is taken from the present folder.
    allow_phantom_bundle : bool
        Let results of a phantom-trained or untrained bundle leave.
    settle_s, quiet_s, study_quiet_s : float
        As in section ``[intake]``.
    node_id : str
        Enters the UIDs.
    query, commitment : bool
        Give every peer the role query, or commitment.
    """

    peers: tuple[Remote, ...]
    bundle: str = "builtin"
    device: str = "auto"
    allow_phantom_bundle: bool = True
    settle_s: float = 1.0
    quiet_s: float = 3.0
    study_quiet_s: float = 1.0
    node_id: str = "throwaway"
    query: bool = False
    commitment: bool = False


@dataclass(slots=True)
class ThrowawayNode:
    """A node below one folder; `running` starts and stops it, any number of times, on the same data.

    Attributes
    ----------
    folder : pathlib.Path
        Holds node.toml, data/ and node.log; made when missing.
    settings : ThrowawaySettings
        What goes into node.toml.
    port : int
        Where it listens.
    """

    folder: Path
    settings: ThrowawaySettings
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        """Its node.toml."""
        return self.folder / "node.toml"

    @property
    def log(self) -> Path:
        """Where its processes write their log."""
        return self.folder / "node.log"

    @property
    def remote(self) -> Remote:
        """The node as somebody to send to."""
        return Remote("node", NODE_AE, "127.0.0.1", self.port)

    def write_config(self) -> None:
        """Write node.toml from the settings."""
        chosen = self.settings
        bundle = chosen.bundle if chosen.bundle == "builtin" else str(Path(chosen.bundle).resolve())
        text = _CONFIG.format(
            ae_title=NODE_AE,
            port=self.port,
            node_id=chosen.node_id,
            settle_s=chosen.settle_s,
            quiet_s=chosen.quiet_s,
            study_quiet_s=chosen.study_quiet_s,
            bundle=json.dumps(bundle),
            device=chosen.device,
            allow_phantom_bundle=json.dumps(chosen.allow_phantom_bundle),
        )
        for peer in chosen.peers:
            more = [role for role in ("query", "commitment") if getattr(chosen, role)]
            more_roles = "".join(f', "{role}"' for role in more)
            text += _PEER.format(name=peer.name, ae_title=peer.called_ae_title, port=peer.port, more_roles=more_roles)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run `jmmda-node serve` while the block lasts; on entry it answers C-ECHO.

        Raises
        ------
        Permanent
            `not_started` when it does not answer in time; the log says why.
        """
        if not self.config.exists():
            self.write_config()
        command = [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(self.config)]
        with child_process(command, self.log) as child:
            self.process = child
            wait_until_answering(self.remote, self.settings.peers[0].called_ae_title, child, self.log)
            yield

    def status(self) -> dict[str, Any]:
        """What `jmmda-node status --json` says."""
        status: dict[str, Any] = self.ask("status", "--json")
        return status

    def ask(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON
        """Run a command of `jmmda-node` against this node's configuration and return its JSON answer."""
        command = [sys.executable, "-m", "dicom_node.cli", *arguments, "--config", str(self.config)]
        answer = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - our own module
        return json.loads(answer.stdout)

    def processes(self) -> dict[str, int]:
        """PIDs of the running processes by role: supervisor, receiver, service, worker."""
        assert self.process is not None
        found = {"supervisor": self.process.pid}
        for pid in _descendants(self.process.pid):
            words: list[str] = []
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            for role, module in _MODULES.items():
                if module in words and (role != "service" or "--service" in words):
                    found[role] = pid
        return found

    def kill(self, role: str) -> None:
        """Kill one process by SIGKILL."""
        os.kill(self.processes()[role], signal.SIGKILL)


_MODULES: Final = {"receiver": "dicom_node.receive", "service": "dicom_node.node", "worker": "dicom_node.synthesize"}


def _descendants(pid: int) -> list[int]:
    direct: list[int] = []
    # A process forks its children from any of its threads, hence every task is asked. Process and threads may end while
    # they are being asked.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                direct += [int(word) for word in (task / "children").read_text().split()]
    unique = dict.fromkeys(direct)
    return [*unique, *(below for child in unique for below in _descendants(child))]


def wait_until_answering(peer: Remote, calling_ae: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an application entity answers C-ECHO.

    Raises
    ------
    Permanent
        `not_started` when its process ended or the time is over.
    """
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and child.poll() is None:
        try:
            echo(peer, calling_ae, timeout_s=2.0)
        except NodeError:
            time.sleep(0.2)
        else:
            return
    raise Permanent("not_started", f"{peer.name} did not answer within {START_TIMEOUT_S:.0f} s; see {log}")
