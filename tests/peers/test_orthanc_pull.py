"""`jmmda-node pull` against a real Orthanc and DCMTK's dcmqrscp, with a running node: C-FIND, C-MOVE, C-GET.

Covers a study by UID, a series, a range of days with filters and limit, what is not fetched twice, an unknown move
destination as both say it, and bytes that arrive as they were sent. Left out: peers that misbehave
(`tests/dicom_node/commands/test_pull`).
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import RLELossless

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.ledger.spool import SpoolPaths, read_association
from dicom_node.net.part10 import read_head
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession
from tests.peers.orthanc import Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]

SECOND_DAY = "20260115"


@pytest.fixture(scope="module")
def studies(phantom_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two studies of eight images: one of 2026-01-14, one of the 15th that holds an MR series as well."""
    folder = tmp_path_factory.mktemp("studies")
    sources = sorted(phantom_ct.rglob("*.dcm"))[:8]
    found: dict[str, list[Path]] = {}
    for name, day, parts in (("first", "20260114", ("CT",)), ("second", SECOND_DAY, ("CT", "MR"))):
        for part in parts:
            for number, source in enumerate(sources):
                ds = pydicom.dcmread(source)
                ds.StudyDate = day
                ds.StudyInstanceUID = f"2.25.{100 + len(name)}{day}"
                ds.SeriesInstanceUID = f"{ds.StudyInstanceUID}.{len(part)}{ord(part[0])}"
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SeriesInstanceUID}.{number + 1}"
                if part == "MR":
                    ds.Modality = "MR"
                    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
                ds.BodyPartExamined = "HEAD"
                path = folder / f"{name}-{part}-{number}.dcm"
                ds.save_as(path)
                found.setdefault(name, []).append(path)
                found.setdefault(f"{name}-{part}", []).append(path)
    return found


def _uid(paths: list[Path], keyword: str = "StudyInstanceUID") -> str:
    return str(pydicom.dcmread(paths[0], stop_before_pixels=True)[keyword].value)


@pytest.fixture(scope="module")
def pacs() -> Remote:
    return Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def dcmqr() -> Remote:
    return Remote("dcmqr", "DCMQR", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def node(
    pacs: Remote, dcmqr: Remote, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThrowawayNode]:
    settings = ThrowawaySettings((pacs, dcmqr), bundle=str(tiny_bundle), device="cpu", query=True)
    made = ThrowawayNode(tmp_path_factory.mktemp("node"), settings)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def orthanc(
    pacs: Remote, node: ThrowawayNode, tmp_path_factory: pytest.TempPathFactory, studies: dict[str, list[Path]]
) -> Iterator[Orthanc]:
    assert pacs.port is not None
    folder = tmp_path_factory.mktemp("pacs")
    with running_orthanc(folder, http_port=free_port(), dicom_port=pacs.port, node_port=node.port) as made:
        for path in (*studies["first"], *studies["second"]):
            made.request("/instances", path.read_bytes(), "POST")
        yield made


@contextmanager
def _dcmqrscp(folder: Path, remote: Remote, node_port: int, *, knows_us: bool) -> Iterator[None]:
    (folder / "db").mkdir(parents=True)
    host = f"node = (JMMDA_NODE, 127.0.0.1, {node_port})\n" if knows_us else ""
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {remote.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{host}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{remote.called_ae_title} {folder / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with (folder / "log").open("wb") as log:
        command = ["/usr/bin/dcmqrscp", "+xr", "-xr", "-c", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _until_listening(remote, process)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _until_listening(remote: Remote, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert process.poll() is None
        try:
            socket.create_connection((remote.host, remote.port or 0), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _store(remote: Remote, paths: list[Path]) -> None:
    instances = [EncodedInstance.read(path) for path in paths]
    with StoreSession(remote, "JMMDA_NODE", {one.need for one in instances}) as session:
        assert {session.send_encoded(one).status for one in instances} == {0}


def _pull(node: ThrowawayNode, *arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "dicom_node.cli", "pull", *arguments, "--json", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def _instances(node: ThrowawayNode, series: str, count: int) -> bool:
    """Whether the ledger comes to know so many instances of a series."""
    for _ in range(300):
        listed = {
            one["series_instance_uid"]: one["instances"] for one in node.ask("series", "list", "--json")["series"]
        }
        if listed.get(series) == count:
            return True
        time.sleep(0.1)
    return False


def _data_sets(paths: list[Path]) -> set[bytes]:
    return {data[read_head(data).data_set_offset :] for data in (path.read_bytes() for path in paths)}


def test_get_of_a_study_reaches_the_running_node(node, orthanc, studies):
    code, told, error = _pull(node, "orthanc", "--study", _uid(studies["second"]), "--get", "--again")
    assert code == 0, error
    (study,) = told["studies"]
    assert (study["level"], study["expected"], study["arrived"], study["failed"] or 0) == ("STUDY", 16, 16, 0)
    for part in ("second-CT", "second-MR"):
        assert _instances(node, _uid(studies[part], "SeriesInstanceUID"), 8)
    stored = list(SpoolPaths(node.folder / "data").series.rglob("*.dcm"))
    assert _data_sets(studies["second-CT"]) <= _data_sets(stored)


def test_move_of_a_study_reaches_the_running_node(node, orthanc, studies):
    code, told, error = _pull(node, "orthanc", "--study", _uid(studies["first"]))
    assert code == 0, (told, error)
    assert (told["verb"], told["studies"][0]["arrived"]) == ("C-MOVE", 8)
    assert _instances(node, _uid(studies["first"], "SeriesInstanceUID"), 8)
    code, told, _ = _pull(node, "orthanc", "--study", _uid(studies["first"]))
    assert (code, told["studies"], told["known"]) == (0, [], 1), "what was fetched is not fetched again"


def test_a_range_of_days_asks_for_ct_of_heads_only(node, orthanc, studies):
    days = ("--from", "2026-01-14", "--to", "2026-01-16")
    code, told, error = _pull(node, "orthanc", *days, "--dry-run", "--again")
    assert code == 0, error
    assert [list(one["series"]) for one in told["studies"]] == [
        [_uid(studies["first-CT"], "SeriesInstanceUID")],
        [_uid(studies["second-CT"], "SeriesInstanceUID")],
    ]
    assert {one["outcome"] for one in told["studies"]} == {"planned"}
    limited = _pull(node, "orthanc", *days, "--dry-run", "--again", "--limit", "1", "--body-part", "head")[1]
    assert len(limited["studies"]) == 1
    assert _pull(node, "orthanc", *days, "--dry-run", "--again", "--body-part", "KNEE")[1]["studies"] == []
    code, told, error = _pull(node, "orthanc", "--from", "2026-01-15", "--get", "--again", "--rate", "6000")
    assert (code, [one["level"] for one in told["studies"]]) == (0, ["SERIES"]), error
    assert told["studies"][0]["arrived"] == 8


def test_a_study_that_orthanc_does_not_hold(node, orthanc):
    code, told, _ = _pull(node, "orthanc", "--study", "1.2.3.4.5.6")
    assert (code, told["error"]["code"]) == (3, "not_held")


def test_dcmtk_sends_by_both_verbs_what_it_holds_compressed(node, dcmqr, studies, tmp_path):
    """DCMTK does not convert, and prefers what is compressed only where that stands in a context of its own."""
    paths = []
    for source in studies["first"]:
        ds = pydicom.dcmread(source)
        ds.compress(RLELossless)
        ds.StudyInstanceUID = "2.25.777"
        ds.SeriesInstanceUID = "2.25.7771"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.7772{len(paths)}"
        paths.append(tmp_path / f"{len(paths)}.dcm")
        ds.save_as(paths[-1])
    with _dcmqrscp(tmp_path / "qr", dcmqr, node.port, knows_us=True):
        _store(dcmqr, paths)
        code, told, error = _pull(node, "dcmqr", "--study", "2.25.777", "--get", "--timeout", "10")
        assert (code, told["studies"][0]["arrived"]) == (0, 8), error
        code, told, error = _pull(node, "dcmqr", "--study", "2.25.777", "--again", "--timeout", "10")
        assert (code, told["studies"][0]["arrived"]) == (0, 8), error
    assert _instances(node, "2.25.7771", 8)


def test_an_unknown_move_destination_is_named(node, dcmqr, orthanc, studies, tmp_path):
    with _dcmqrscp(tmp_path / "qr", dcmqr, node.port, knows_us=False):
        _store(dcmqr, studies["first"])
        code, told, _ = _pull(node, "dcmqr", "--study", _uid(studies["first"]), "--again", "--timeout", "10")
    assert (code, told["studies"][0]["code"]) == (3, "move_destination_unknown")
    assert "does not know our AE title 'JMMDA_NODE' as a move destination" in told["studies"][0]["reason"]


def test_a_pacs_with_a_wrong_port_for_us_is_told_so(node, orthanc, studies):
    def know_us(port: int) -> None:
        orthanc.request("/modalities/jmmda", json.dumps(["JMMDA_NODE", "127.0.0.1", port]).encode(), "PUT")

    know_us(free_port())
    try:
        code, told, _ = _pull(node, "orthanc", "--study", _uid(studies["first"]), "--again")
    finally:
        know_us(node.port)
    assert (code, told["studies"][0]["outcome"]) == (1, "failed")
    assert "a wrong address or port for 'JMMDA_NODE'" in told["studies"][0]["reason"]


def test_what_get_leaves_in_the_spool_is_an_association_like_any_other(pacs, orthanc, studies, tmp_path):
    """Without a running node: it waits for the service, byte by byte what was sent."""
    offline = ThrowawayNode(tmp_path / "offline", ThrowawaySettings((pacs,), device="cpu", query=True))
    offline.write_config()
    code, _, error = _pull(offline, "orthanc", "--study", _uid(studies["first"]), "--get")
    assert code == 0, error
    (folder,) = SpoolPaths(offline.folder / "data").incoming.iterdir()
    left = read_association(folder)
    assert (left.calling_ae, left.called_ae, left.outcome, len(left.files)) == ("ORTHANC", "JMMDA_NODE", "closed", 8)
    assert _data_sets(list(left.files)) == _data_sets(studies["first"])
    code, told, _ = _pull(offline, "orthanc", "--study", _uid(studies["second"]))
    assert (code, told["error"]["code"]) == (1, "node_not_listening")
