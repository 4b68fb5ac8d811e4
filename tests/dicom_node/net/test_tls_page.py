"""`docs/tls.md`: its commands make certificates that work, its settings are valid, and its codes are those of the code.

Left out: its sentences, which `test_net_tls`, `test_receive_tls` and `test_settings_tls` hold true.
"""

from __future__ import annotations

import ast
import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import dicom_node
from dicom_node.net.certificates import certificate_facts
from dicom_node.net.tls import TlsCall, TlsFiles, client_context, server_context
from dicom_node.settings import parse_settings

ROOT = Path(dicom_node.__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tls.md").read_text("utf-8")
#: Where codes of refusals are made.
SOURCES = ("net/tls_words.py", "net/tls.py", "receive/policy.py", "receive/gate.py")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_commands_make_certificates_that_work(tmp_path: Path) -> None:
    subprocess.run(["bash", "-euc", block("bash")], cwd=tmp_path, check=True, capture_output=True)
    facts = certificate_facts(tmp_path / "node.pem", tmp_path / "node.key")
    assert facts.matches_key
    assert facts.san == ("jmmda.example", "192.0.2.5")
    files = TlsFiles(str(tmp_path / "node.pem"), str(tmp_path / "node.key"), (str(tmp_path / "ca.pem"),))
    here, there = socket.socketpair()

    def serve() -> None:
        with server_context(files, require_certificate=True).wrap_socket(there, server_side=True) as connection:
            connection.sendall(connection.recv(5))

    thread = threading.Thread(target=serve)
    thread.start()
    context: ssl.SSLContext = client_context(TlsCall(files, "jmmda.example"))
    with context.wrap_socket(here, server_hostname="jmmda.example") as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
    thread.join(5)


def test_the_settings_are_valid() -> None:
    settings = parse_settings(block("toml"), file="docs/tls.md", base=Path("/etc"))
    assert settings.tls.port == 2762
    assert settings.peers[0].tls_call is not None


def test_every_code_is_on_the_page_and_no_other() -> None:
    rows = PAGE[PAGE.index("| code |") : PAGE.index("### Peers")].splitlines()[2:]
    shown = {code for row in rows if row for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert shown == set().union(*(_codes(ROOT / "dicom_node" / name) for name in SOURCES))


def _codes(path: Path) -> set[str]:
    """First arguments of failures and refusals, and the keyword `code`, where they are written out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "")
        values = [one.value for one in node.keywords if one.arg == "code"]
        values += node.args[:1] if name in ("TlsFailure", "Refusal", "Transient") else []
        found |= {one.value for one in values if isinstance(one, ast.Constant)}
    # Chosen by an expression in `Policy.admit`.
    return found | ({"calling_ae", "calling_host"} if path.name == "policy.py" else set())
