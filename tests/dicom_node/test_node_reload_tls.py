"""A reload that renews certificates: taken at once by the running node, or by none of its processes.

What a receiver does with the files is tested in `test_receive_tls`, reloads without TLS in `test_node_reload`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node.demo.throwaway import free_port
from dicom_node.errors import NodeError
from dicom_node.net.remote import Remote
from dicom_node.net.scu import echo
from dicom_node.operate.state import settings_in_force
from tests.dicom_node.net.tls_cases import Authority
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node


@dataclass(frozen=True)
class World:
    """A node that also listens by TLS, and who issued its certificate."""

    node: Node
    authority: Authority
    port: int
    certificate: Path
    key: Path

    def remote(self, authority: Authority) -> Remote:
        call = self.authority.issue("pacs").call(authority.certificate)
        return Remote("node", "JMMDA_NODE", "127.0.0.1", self.port, call)

    def renew(self, authority: Authority) -> None:
        fresh = authority.issue("renewed")
        self.certificate.write_bytes(fresh.certificate.read_bytes())
        self.key.write_bytes(fresh.key.read_bytes())
        self.key.chmod(0o600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("reload-tls")
    node = make_node(folder / "node", Pacs(), folder / "no-such-bundle")
    made = World(node, Authority(folder / "authority"), free_port(), folder / "node.pem", folder / "node.key")
    made.renew(made.authority)
    section = (
        f'[tls]\nport = {made.port}\ncertificate = "{made.certificate}"\nkey = "{made.key}"\n'
        f'ca = "{made.authority.certificate}"\n\n'
    )
    node.config.write_text(node.config.read_text().replace("[intake]", section + "[intake]"))
    with node.running():
        node.wait_for(lambda: "is ready as" in node.log.read_text(), "the start")
        yield made


def reload(node: Node) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "dicom_node.cli", "config", "reload", str(node.config)]
    return subprocess.run(words, capture_output=True, text=True, timeout=90)


def test_a_renewed_certificate_comes_into_use_and_a_bad_one_takes_everything_back(world: World, tmp_path: Path) -> None:
    node, other = world.node, Authority(tmp_path / "other")
    assert echo(world.remote(world.authority), PACS_AE).round_trip_s >= 0
    world.renew(other)
    done = reload(node)
    assert done.returncode == 0, done.stderr
    assert "changed: nothing" in done.stdout  # in the file
    assert echo(world.remote(other), PACS_AE).round_trip_s >= 0

    good = node.config.read_text()
    world.key.write_text("no key")
    node.config.write_text(good.replace("settle_s = 0.3", "settle_s = 0.4").replace(f'"{PACS_AE}"', '"CHANGED"'))
    done = reload(node)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "receiver 1" in done.stderr
    assert str(world.key) in done.stderr
    running = settings_in_force(node.paths)
    assert running is not None
    assert running.settings.intake.settle_s == 0.3, "the service never hears of it"
    assert echo(world.remote(other), PACS_AE).round_trip_s >= 0
    with pytest.raises(NodeError, match="peer_rejected"):
        echo(node.remote, "CHANGED")
