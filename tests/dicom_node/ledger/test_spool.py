"""The spool as the receiver leaves it: durable files, the journal of an association, what survives a kill at any point.

Left out: the association itself (tests of `receive`) and how the service takes the files in (`test_ingest`).
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.ledger.spool import (
    Incoming,
    InstanceMeta,
    SpoolPaths,
    append_line,
    append_lines,
    bind_poke_socket,
    durable_write,
    name_hash,
    poke,
    read_lines,
)
from tests.dicom_node.node_cases import killed_at

META = InstanceMeta("1.2.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "incoming")


def _open(incoming: Incoming, calling_ae: str = "SCANNER"):
    return incoming.open_association(calling_ae=calling_ae, called_ae="NODE", host="192.0.2.1", port=104)


def test_importing_the_spool_loads_no_third_party_package():
    heavy = ("sqlalchemy", "pydicom", "numpy", "alembic")
    code = f"import sys, dicom_node.ledger.spool; print([name for name in sys.modules if name in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_instance_is_whole_and_private_and_in_the_journal(incoming: Incoming):
    journal = _open(incoming)
    path = journal.store([b"head", memoryview(b"body")], META)
    assert path.read_bytes() == b"headbody"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    stored = [line for line in read_lines(path.parent / "association.jsonl") if line["event"] == "stored"]
    assert stored[0]["file"] == path.name
    assert stored[0]["bytes"] == 8
    journal.close("closed")


def test_a_peer_has_no_influence_on_file_names(incoming: Incoming):
    journal = _open(incoming, "../../etc")
    path = journal.store([b"x"], InstanceMeta("../../../tmp/evil", "a/b", "c"))
    assert path.resolve().is_relative_to(incoming.root.resolve())
    assert "evil" not in path.name
    journal.close("closed")


def test_association_is_open_while_its_journal_is_held_and_then_closed(incoming: Incoming):
    journal = _open(incoming)
    assert [one.outcome for one in incoming.associations()] == ["open"]
    journal.close("closed")
    journal.close("aborted")
    (one,) = incoming.associations()
    assert (one.outcome, one.calling_ae, one.host) == ("closed", "SCANNER", "192.0.2.1")
    assert one.closed_at


def test_a_full_disk_leaves_no_partial_file(incoming: Incoming):
    journal = _open(incoming)

    def parts():
        yield b"first half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        journal.store(parts(), META)
    assert [path.name for path in journal.folder.iterdir()] == ["association.jsonl"]
    journal.close("closed")


def test_killed_receiver_at_any_point_leaves_whole_files_and_a_dead_association(incoming: Incoming):
    payloads = [bytes([number]) * 1000 for number in range(3)]
    acknowledged = incoming.root.parent / "acknowledged"

    def work() -> None:
        journal = _open(incoming)
        for number, payload in enumerate(payloads):
            journal.store([payload], InstanceMeta(f"1.{number}", "2", "3"))
            with acknowledged.open("a") as stream:
                stream.write(f"{number}\n")
        journal.close("closed")

    call = 0
    while killed_at(call, work):
        call += 1
        found = incoming.associations()
        assert all(one.outcome in ("aborted", "closed") for one in found)
        files = [path for one in found for path in one.files]
        assert all(path.read_bytes() in payloads for path in files)
        told = len(acknowledged.read_text().split()) if acknowledged.exists() else 0
        assert len(files) >= told
        for folder in incoming.root.iterdir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        acknowledged.unlink(missing_ok=True)
    assert call > 10


def test_durable_write_killed_anywhere_leaves_old_or_new(tmp_path: Path):
    target = tmp_path / "file"
    call = 0
    target.write_bytes(b"old")
    while killed_at(call, lambda: durable_write(target, b"new")):
        call += 1
        assert target.read_bytes() in (b"old", b"new")
        target.write_bytes(b"old")
    assert target.read_bytes() == b"new"


def test_a_torn_line_spoils_only_itself(tmp_path: Path):
    journal = tmp_path / "journal.jsonl"
    append_line(journal, {"n": 1})
    with journal.open("ab") as stream:
        stream.write(b'{"n": 2, "tor')
    append_lines(journal, [{"n": 3}, {"n": 4}])
    assert [line["n"] for line in read_lines(journal)] == [1, 3, 4]
    assert json.loads(journal.read_bytes().splitlines()[-1]) == {"n": 4}


def test_reading_a_journal_that_is_not_there_yields_nothing(tmp_path: Path):
    assert list(read_lines(tmp_path / "none.jsonl")) == []


def test_poke_reaches_a_socket_in_a_deep_folder_and_is_silent_without_one(tmp_path: Path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    poke(deep / "service.sock")
    with bind_poke_socket(deep / "service.sock") as listener:
        poke(deep / "service.sock")
        assert listener.recv(16) == b"poke"
    poke(deep / "service.sock")


def test_name_hash_separates_its_parts():
    assert name_hash("1.2", "3") != name_hash("1.", "23")
    assert len(name_hash("x")) == 32


def test_the_data_folder_is_private(tmp_path: Path):
    paths = SpoolPaths(tmp_path / "data")
    before = os.umask(0)
    try:
        paths.make()
    finally:
        os.umask(before)
    for folder in (paths.data_dir, paths.incoming, paths.series, paths.jobs, paths.run, paths.quarantine):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
