"""docs/admin-guide.md, followed to the letter on a throwaway machine with a real systemd and a real Orthanc.

The machine has no network. The blocks marked `sh` are typed in their order as they stand; `toml`, `json` and `lua` are
written to the files that the text names. Replaced are the addresses of the documentation and, for the sake of time, the
model by an untrained one and the PACS's wait for a quiet series. A newcomer's result must arrive in Orthanc and survive
backup, restore, upgrade and roll back; the commands of the tables are typed at the end. Then
the unit's promises: the watchdog, and a worker that is taken for lack of memory.

Left out: blocks for other systems (`sh other`): `tests/packaging/test_install_script` runs their script, and
`tests/packaging/test_deb` removes and purges.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.packages import REPOSITORY, SITE, Box, dependencies, quick_package, running_box, why_no_box

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("box")]

GUIDE = REPOSITORY / "docs" / "admin-guide.md"
#: What a PACS has before anybody asks it for a route.
ORTHANC_ALONE = {
    "DicomAet": "ORTHANC", "DicomPort": 4242, "HttpPort": 8042, "StorageDirectory": "/srv/orthanc",
    "IndexDirectory": "/srv/orthanc", "AuthenticationEnabled": False, "RemoteAccessAllowed": False, "Plugins": [],
}  # fmt: skip
#: Where the machine sees a small bundle.
BUNDLE = "/opt/bundle"
#: Loading torch alone takes more than this.
WORKER_NEEDS_MORE_MIB = 80
#: Programs whose calls in running text are commands to type.
PROGRAMS = ("jmmda-node", "systemctl", "journalctl", "ss", "df", "du")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language (`sh`, `sh other`, `toml`, ...) and text."""

    language: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"^```([a-z ]+)\n(.*?)^```$", GUIDE.read_text(), re.S | re.M)
    return [Block(language, re.sub(r"192\.0\.2\.\d+", "127.0.0.1", text)) for language, text in found]


def inline_commands() -> list[str]:
    """Return the commands in running text and tables, in their order, each once."""
    text = re.sub(r"^```.*?^```$", "", GUIDE.read_text(), flags=re.S | re.M)
    commands = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`", text)
    return list(dict.fromkeys(commands))


class Reader:
    """Somebody who does what the guide says."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.did: list[str] = []
        self.results: list[dict] = []
        self.series_then: list[dict] = []

    def follow(self, block: Block) -> None:
        match block.language:
            case "sh":
                for line in block.text.splitlines():
                    self.type(line)
            case "toml":
                self.box.write("/etc/jmmda-node/node.toml", block.text + f'bundle = "{BUNDLE}"\nthreads = 1\n')
            case "json":
                self.box.write(
                    "/etc/orthanc.json", json.dumps(ORTHANC_ALONE | json.loads(block.text) | {"StableAge": 1})
                )
            case "lua":
                self.box.write("/etc/orthanc/route-ct.lua", block.text)
                self.restart_orthanc()
            case "sh other":
                pass
            case other:
                raise AssertionError(f"a block of {other!r}, which this test does not know")

    def type(self, line: str) -> None:
        self.box.shell(f"{line} --bundle {BUNDLE}" if line.startswith("jmmda-node demo") else line)
        self.did.append(line)
        if line.startswith("jmmda-node send"):
            self.wait("the result in the PACS", lambda: self.states() == {"DELIVERED"})

    def restart_orthanc(self) -> None:
        self.box.run("systemctl", "stop", "pacs", check=False)
        self.box.run("systemctl", "reset-failed", "pacs", check=False)
        self.box.run("systemd-run", "-q", "--unit", "pacs", "Orthanc", "/etc/orthanc.json")
        self.wait("Orthanc", lambda: self.box.run("curl", "-sf", "http://127.0.0.1:8042/system", check=False).stdout)

    def wait(self, what: str, condition: Callable[[], object], timeout_s: float = 90.0) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.3)
        log = self.box.run("journalctl", "-u", "jmmda-node", "--no-pager", "-n", "40", check=False).stdout
        raise AssertionError(f"{what} never came; states {self.states()}\n{log}")

    def series(self) -> list[dict]:
        return list(json.loads(self.box.run("jmmda-node", "series", "list", "--json").stdout)["series"])

    def states(self) -> set[str]:
        """States of the series that were not left aside."""
        return {one["state"] for one in self.series()} - {"SKIPPED"}

    def processes(self) -> dict:
        """What the node says of its processes."""
        return dict(json.loads(self.box.run("jmmda-node", "status", "--json").stdout)["processes"])

    def in_orthanc(self) -> list[dict]:
        query = json.dumps({"Level": "Series", "Query": {"Modality": "MR"}, "Expand": True})
        return list(json.loads(self.box.run("curl", "-sf", "-d", query, "http://127.0.0.1:8042/tools/find").stdout))

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.box.run("systemctl", "show", "-P", name, "jmmda-node").stdout.strip()


@pytest.fixture(scope="module")
def reader(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who has followed the whole guide."""
    reason = why_no_box()
    if reason:
        pytest.skip(reason)
    package = quick_package()
    shown = (f"{package.parent}:/opt/new", f"{dependencies()}:{SITE}", f"{tiny_bundle}:{BUNDLE}")
    with running_box(tmp_path_factory.mktemp("guide") / "box", *shown) as box:
        someone = Reader(box)
        box.lend_dependencies()
        # Images of containers forbid packages to start services; a server does not.
        box.shell(f"rm -f /usr/sbin/policy-rc.d; mkdir -p /srv/orthanc; cp /opt/new/{package.name} .")
        box.write("/etc/apt/apt.conf.d/99yes", 'APT::Get::Assume-Yes "true";')
        box.write("/etc/orthanc.json", json.dumps(ORTHANC_ALONE))
        someone.restart_orthanc()
        for block in blocks():
            someone.follow(block)
        # What the guide itself leaves; the tests change it, in any order.
        someone.results, someone.series_then = someone.in_orthanc(), someone.series()
        yield someone


def test_the_result_lies_in_orthanc_beside_its_ct(reader: Reader) -> None:
    [result] = reader.results
    assert result["MainDicomTags"]["SeriesDescription"].startswith("SYNTHETIC DWI from CT (AI) - NOT MR")
    study = reader.box.run("curl", "-sf", f"http://127.0.0.1:8042/studies/{result['ParentStudy']}").stdout
    assert len(json.loads(study)["Series"]) >= 2
    [processed] = [one for one in reader.series_then if one["state"] == "DELIVERED"]
    assert len(result["Instances"]) == processed["instances"]


def test_backup_and_roll_back_forget_and_double_nothing(reader: Reader) -> None:
    """The guide restores a backup, rolls back and deletes old data; afterwards the node knows what it knew."""
    assert reader.did.count("rm -f /var/lib/jmmda-node/ledger.sqlite*") == 3
    assert {one["state"] for one in reader.series_then} - {"SKIPPED"} == {"DELIVERED"}
    assert len(reader.results) == 1


def test_every_command_of_the_tables_can_be_typed(reader: Reader) -> None:
    commands = inline_commands()
    assert len(commands) >= 20
    [uid] = [one["series_instance_uid"] for one in reader.series() if one["state"] == "DELIVERED"]
    for command in (one for one in commands if one not in reader.did):
        reader.box.shell(command.replace("UID", uid))
    reader.wait("the end of the retry", lambda: reader.states() == {"DELIVERED"})


def test_the_node_runs_as_its_own_user_and_writes_nowhere_else(reader: Reader) -> None:
    pid = reader.show("MainPID")
    assert reader.box.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "jmmda-node"
    owners = reader.box.shell("find /var/lib/jmmda-node ! -user jmmda-node").stdout
    assert owners == "", "a command of root's left files that the node cannot write"
    mounts = reader.box.shell(f"cat /proc/{pid}/mounts").stdout
    writable = {line.split()[1] for line in mounts.splitlines() if "rw" in line.split()[3].split(",")}
    assert "/var/lib/jmmda-node" in writable
    assert not writable & {"/", "/etc", "/opt", "/usr", "/home", "/root"}


def test_a_worker_that_takes_too_much_memory_goes_alone(reader: Reader) -> None:
    """The limit stands on the slice; the kernel takes the worker, and the front door stays open."""
    # Another test may have restarted the node just now.
    reader.wait("a worker", lambda: reader.processes()["worker"].get("pid"))
    worker = reader.processes()["worker"]["pid"]
    others = set(reader.box.run("pgrep", "-u", "jmmda-node").stdout.split()) - {str(worker)}
    needed_kib = sum(
        int(re.findall(r"RssAnon:\s+(\d+) kB", reader.box.run("cat", f"/proc/{one}/status").stdout)[0])
        for one in others
    )
    limit = f"MemoryMax={needed_kib // 1024 + WORKER_NEEDS_MORE_MIB}M"
    # A limit below what is in use cannot be set everywhere, so the node is not there when it is set.
    reader.box.run("systemctl", "stop", "jmmda-node")
    try:
        reader.box.run("systemctl", "set-property", "--runtime", "jmmda-node.slice", limit)
        reader.box.run("systemctl", "start", "jmmda-node")
        pid = reader.show("MainPID")

        def starved() -> bool:
            return "memory" in str(reader.processes()["worker"].get("reason"))

        reader.wait("the end of the worker for lack of memory", starved)
        assert (reader.show("ActiveState"), reader.show("MainPID")) == ("active", pid)
        reader.box.run("jmmda-node", "echo", "JMMDA_NODE@127.0.0.1:11112", "--calling-ae", "ORTHANC")
    finally:
        reader.box.run("systemctl", "set-property", "--runtime", "jmmda-node.slice", "MemoryMax=80%")


def test_a_node_without_progress_is_restarted_by_the_watchdog(reader: Reader) -> None:
    reader.box.write("/run/systemd/system/jmmda-node.service.d/quick.conf", "[Service]\nWatchdogSec=6\nRestartSec=1\n")
    reader.box.run("systemctl", "daemon-reload")
    before = reader.processes()["pid"]
    reader.box.run("systemctl", "restart", "jmmda-node")
    reader.wait("the new service's report", lambda: reader.processes()["pid"] != before)
    assert reader.show("NRestarts") == "0"
    reader.box.run("kill", "-STOP", reader.processes()["pid"])
    reader.wait("the restart", lambda: reader.show("NRestarts") == "1" and reader.show("ActiveState") == "active")
    log = reader.box.run("journalctl", "-u", "jmmda-node", "--no-pager", "-n", "60").stdout
    assert "Watchdog timeout" in log


def test_the_guide_is_worth_following() -> None:
    """The pieces that the walk relies on are there, so that it cannot pass by having nothing to do."""
    languages = [block.language for block in blocks()]
    assert languages.count("sh") >= 10
    assert {"toml", "json", "lua"} <= set(languages)
    assert (Path(GUIDE).parent / "output.md").exists()
