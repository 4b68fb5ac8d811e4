"""Example peers are told from real ones, in the shipped template and in files of any shape.

Left out: what systemd and the package do with the answer (`tests/packaging/test_deb`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.settings.template import template_text
from dicom_node.settings.untouched import example_hosts, main


def test_the_template_is_untouched_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(template_text())
    command = [sys.executable, "-m", "dicom_node.settings.untouched", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "192.0.2.10" in done.stderr
    assert "config check" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[peers]]\nhost = "10.1.2.3"', ()),
        ('[[peers]]\nhost = "pacs.example.org"', ()),
        ('[[peers]]\nhost = "198.51.100.7"', ("198.51.100.7",)),
        ('[[peers]]\nhost = ["10.0.0.1", "203.0.113.9"]', ("203.0.113.9",)),
        ('[[peers]]\nhost = "2001:db8::1"', ("2001:db8::1",)),
        ('[[peers]]\nhosts = ["192.0.2.1"]', ("192.0.2.1",)),
        ("[[peers]]\nhost = 7", ()),
        ("peers = 3", ()),
        ("peers = [3]", ()),
        ("no toml [", ()),
        ('[node]\nhost = "192.0.2.1"', ()),
        ("", ()),
    ],
)
def test_only_addresses_of_the_documentation_count(text: str, expected: tuple[str, ...]) -> None:
    assert example_hosts(text) == expected


def test_a_file_that_cannot_be_read_is_left_to_the_node_to_name(tmp_path: Path) -> None:
    assert main(str(tmp_path / "absent.toml")) == 0
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert main(str(tmp_path / "binary.toml")) == 0
