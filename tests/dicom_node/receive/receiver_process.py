"""A real receiver process under test: started, told its plan, reloaded, stopped or killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pydicom

from dicom_node.ledger.spool import Incoming, IncomingAssociation, SpoolPaths
from dicom_node.net.remote import Remote
from dicom_node.net.tls import TlsCall
from dicom_node.receive.plan import Caller, ReceiverPlan

ROOT = Path(__file__).resolve().parents[3]
PACS = Caller("pacs", ("PACS", "STORESCU"), "127.0.0.1")


class ReceiverProcess:
    """``python -m dicom_node.receive`` on a free loopback port, as a supervisor would run it.

    Use it as a context manager; leaving it closes standard input, on which the process drains and exits.
    """

    def __init__(
        self, data_dir: Path, *, wrapper: list[str] | None = None, log: Path | None = None, **changes: Any
    ) -> None:
        self.data_dir = data_dir
        plan = ReceiverPlan(
            ae_title="JMMDA_NODE",
            host="127.0.0.1",
            port=0,
            data_dir=str(data_dir),
            callers=(PACS,),
            min_free_bytes=0,
            drain_s=3.0,
        )
        self.plan = replace(plan, **changes)
        self._log = log or data_dir.parent / f"{data_dir.name}.log"
        self._wrapper = wrapper or []
        self.port = 0
        self.tls_port: int | None = None

    def __enter__(self) -> Self:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", "dicom_node.receive"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )
        self.tell(self.plan)
        started = self.report()
        assert started["event"] == "listening", (started, self.log)
        self.port, self.tls_port = started["port"], started["tls_port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate(timeout=30)

    @property
    def remote(self) -> Remote:
        """How to call it."""
        return Remote("node", "JMMDA_NODE", "127.0.0.1", self.port)

    def by_tls(self, call: TlsCall | None) -> Remote:
        """How to call its TLS port."""
        return Remote("node", "JMMDA_NODE", "127.0.0.1", self.tls_port, tls_call=call)

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text()

    def tell(self, plan: ReceiverPlan) -> None:
        """Send a plan."""
        assert self.process.stdin is not None
        self.process.stdin.write(plan.to_line().encode())

    def report(self) -> dict[str, Any]:
        """Next line of its standard output; callers that it turned away are told of at any moment, and passed over."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            told = dict(json.loads(line)) if line else {"event": "end of output"}
            if told["event"] != "refused":
                return told

    def associations(self) -> list[IncomingAssociation]:
        """What its spool holds."""
        return Incoming(SpoolPaths(self.data_dir).incoming).associations()

    def stored(self) -> dict[str, list[Path]]:
        """Complete files by SOP Instance UID, every one read by pydicom."""
        found: dict[str, list[Path]] = {}
        for path in sorted(SpoolPaths(self.data_dir).incoming.rglob("*.dcm")):
            dataset = pydicom.dcmread(path)
            assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
            assert len(dataset.PixelData) == dataset.Rows * dataset.Columns * 2
            found.setdefault(dataset.SOPInstanceUID, []).append(path)
        return found

    def leftovers(self) -> list[Path]:
        """Half-written files."""
        return sorted(self.data_dir.rglob("*.part"))
