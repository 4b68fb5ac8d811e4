"""The service process: the only writer of the ledger. It wires the rooms together and keeps their clock.

Threads: the main one waits for pokes, signals and its supervisor, and for the moment at which a series may be complete;
APScheduler looks at everything once a second; one thread feeds the worker, one derives, one per destination sends. All
of them read their work from the ledger. While a series waits, one more per source asks what that holds (C-FIND).

Protocol with the supervisor, one JSON object a line. On standard input: the settings, and how the last reload ended; a
later line replaces both; the end of input means that the supervisor is gone. On standard output: ``ready`` once,
``beat`` while every loop makes progress, ``reload_wanted`` when a command asks for it, ``audit`` for every transfer
that began or ended, ``stopped``.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from dicom_node.assemble.decide import Decider
from dicom_node.assemble.ingest import Ingest
from dicom_node.assemble.quiet import QuietClock
from dicom_node.assemble.source import Inquiry
from dicom_node.assemble.sweep import Sweep
from dicom_node.deliver.commitment import CommitmentAsker
from dicom_node.deliver.commitment_answers import CommitmentAnswers
from dicom_node.deliver.commitment_reports import CommitmentReports
from dicom_node.deliver.outbox import Outbox
from dicom_node.ledger.clock import Clock
from dicom_node.ledger.place import place_of
from dicom_node.ledger.poke import bind_poke_socket, poke
from dicom_node.ledger.rebuild import restore_missing, sync_journals
from dicom_node.ledger.spool import SpoolPaths, durable_write, utc_now
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Association
from dicom_node.operate.beats import Beats
from dicom_node.operate.guard import spool_lock
from dicom_node.operate.logs import set_up_logs
from dicom_node.operate.reloading import check_same_file
from dicom_node.operate.requests import serve_requests, sweep_answers
from dicom_node.operate.schedule import Schedule
from dicom_node.operate.state import STATE_FILE, write_in_force
from dicom_node.operate.supervised import Wakeup, Word, Words, tell
from dicom_node.operate.transfers import TransferWatch
from dicom_node.remedies import handle_request
from dicom_node.settings import AuditTo, Settings
from dicom_node.stages.derivation import DeriveStage
from dicom_node.stages.notes import Notes
from dicom_node.stages.synthesis import SynthesisStage, recover_jobs

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 1.0
_HEALTH_S: Final = 2.0
_NOTES_S: Final = 5.0
#: A command may hold the spool for the moment in which it changes something.
_LOCK_WAIT_S: Final = 5.0
#: A round takes in all that waits in the spool, which after a long pause may be thousands of files.
_ASSEMBLE_LIMIT_S: Final = 600.0
#: Pokes within this time share one round, so that a fast sender makes few large commits instead of many small ones.
_POKE_GAP_S: Final = 0.1


class Service:
    """The rooms of one node, wired.

    Parameters
    ----------
    config : Path
        The settings file, which the supervisor reads.
    settings : Settings
        In force.
    ledger : Ledger
        Open ledger; the caller holds the spool lock.
    """

    def __init__(self, config: Path, settings: Settings, ledger: Ledger) -> None:
        self._config = config
        self._settings = settings
        self._ledger = ledger
        self._paths = ledger.paths
        self._quiet = QuietClock(ledger.clock)
        self._ingest = Ingest(ledger, self._quiet, lambda: self._settings.intake.late_slices)
        self._inquiry = Inquiry(ledger.clock, self.settings, partial(poke, ledger.paths.service_socket))
        self._sweep = Sweep(ledger, self._quiet, Decider(ledger.paths), self._inquiry)
        self._beats = Beats(ledger.clock)
        self._outbox = Outbox(ledger, self.settings)
        self._asker = CommitmentAsker(ledger, self.settings)
        self._reports = CommitmentReports(ledger, self.settings)
        self._answers = CommitmentAnswers(ledger, self.settings)
        self._derive = DeriveStage(ledger, self.settings, self._beats, self._outbox.wake)
        self._synthesis = SynthesisStage(ledger, self.settings, self._beats, self._derive.wake)
        self._notes = Notes(ledger, self.settings, self._outbox.wake)
        self._transfers = self._watch_transfers()
        self._schedule = Schedule()
        self._assembling = threading.Lock()
        self._reload_report: Mapping[str, Any] | None = None

    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._settings

    def recover(self) -> None:
        """Make ledger, journals, spool and jobs agree after whatever ended the last service."""
        restore_missing(self._ledger)
        sync_journals(self._ledger)
        self._transfers = self._watch_transfers()  # what was restored is no news
        self._ingest.recover()
        self._close_lost_associations()
        recover_jobs(self._ledger)
        self._asker.recover()
        sweep_answers(self._paths)

    def start(self) -> None:
        """Start every thread."""
        self._synthesis.start()
        self._derive.start()
        self._schedule.every(_SWEEP_S, "assemble", self.assemble)
        self._schedule.every(_SWEEP_S, "deliver", self._outbox.wake)
        self._schedule.every(_NOTES_S, "notes", self._notes.run)
        self._schedule.every(_SWEEP_S, "commitment", self._confirm)
        self._schedule.every(_HEALTH_S, "health", self.report_health)
        self._schedule.every(_SWEEP_S, "audit", self.report_transfers)
        self._schedule.start()

    def stop(self) -> None:
        """Stop every thread; whatever is under way is in the ledger and goes on at the next start."""
        self._inquiry.stop()
        self._schedule.stop()
        self._synthesis.stop()
        self._derive.stop()
        self._outbox.stop()
        self._asker.stop()
        self._answers.stop()
        self.report_transfers()
        self._write_state("stopped")

    def assemble(self) -> float | None:
        """Do one round of ingest, completion, decision and requests.

        Returns
        -------
        float or None
            Seconds until the next round is worth it, where that is known.
        """
        with self._assembling:
            asked = self._answers.waiting()
            self._ingest.scan()
            due_s = self._sweep.run(self._settings)
            serve_requests(self._paths, self._handle)
        self._beats.beat("assemble", _ASSEMBLE_LIMIT_S)
        self._synthesis.wake()
        with self._assembling:
            self._reports.take_in()
            self._answers.answer(asked)
        if asked:
            self._answers.wake()
        return due_s

    def _confirm(self) -> None:
        """Ask for storage commitment, and answer those who ask us, where it is time."""
        self._asker.wake()
        self._answers.wake()

    def take(self, word: Word) -> None:
        """Work by what the supervisor says; it has judged it already."""
        if word.settings != self._settings:
            began, self._settings = self._settings.audit.to is AuditTo.NONE, word.settings
            if began:  # what was before the audit is not reported
                self._transfers = self._watch_transfers()
            set_up_logs(word.settings.node.log_level.value)
            logger.info("new settings are in force")
        self._reload_report = word.reload
        write_in_force(self._paths, self._config, self._settings)
        self._write_state("running")
        self._synthesis.wake()
        self._outbox.wake()

    def _handle(self, request: Mapping[str, Any]) -> object:
        """Do what a command asks; a reload is the supervisor's to do, and its outcome comes by `take`."""
        if request.get("verb") != "reload":
            return handle_request(self._ledger, self._settings, request)
        check_same_file(str(request.get("file")), self._config)
        tell("reload_wanted", request=str(request.get("request")))
        return None

    def report_health(self) -> None:
        """Write `run/state.json`, and give the supervisor a beat while every loop makes progress."""
        self._beats.beat("schedule")
        self._write_state("running")
        if self._beats.well:
            tell("beat")
        else:
            slow = [name for name, pulse in self._beats.pulses().items() if not pulse.well]
            logger.error("no progress in: %s", ", ".join(slow))

    def _watch_transfers(self) -> TransferWatch:
        return TransferWatch(self._ledger, self.settings, lambda event: tell("audit", **event))

    def report_transfers(self) -> None:
        """Tell the supervisor, which keeps the audit trail, of transfers that began or ended."""
        if self._settings.audit.to is not AuditTo.NONE:
            self._transfers.look()

    def _write_state(self, state: str) -> None:
        pulses = self._beats.pulses()
        record = {
            "at": utc_now(),
            "pid": os.getpid(),
            "state": state,
            "well": self._beats.well,
            "worker": self._synthesis.report,
            "loops": {name: {"age_s": p.age_s, "limit_s": p.limit_s, "well": p.well} for name, p in pulses.items()},
            "reload": self._reload_report,
        }
        durable_write(self._paths.run / STATE_FILE, json.dumps(record, indent=1).encode())

    def _close_lost_associations(self) -> None:
        """Mark associations whose folder is gone as ended: they were taken in, but the end was not written down."""
        with self._ledger.transaction() as change:
            for row in change.session.scalars(select(Association).where(Association.outcome == "open")):
                if not (self._paths.incoming / row.key).is_dir():
                    row.outcome, row.closed_at = "closed", change.at


def run_service(config: Path) -> int:
    """Run the service process until it is told to stop.

    Returns
    -------
    int
        Exit code 0.

    Raises
    ------
    Permanent
        ``spool_in_use`` when another service works on the data folder; ``service_word`` when no supervisor says what
        the settings are.
    """
    os.umask(0o077)
    words = Words()
    word = Word.parse(words.next() or b"")
    settings = word.settings
    set_up_logs(settings.node.log_level.value)
    paths = SpoolPaths(settings.node.data_dir)
    paths.make()
    with spool_lock(paths, wait_s=_LOCK_WAIT_S):
        ledger = Ledger.open(paths, settings.ledger.url, Clock())
        try:
            _run(Service(config, settings, ledger), paths, word, words)
        finally:
            ledger.close()
    return 0


def _run(service: Service, paths: SpoolPaths, word: Word, words: Words) -> None:
    service.recover()
    wakeup = Wakeup(bind_poke_socket(paths.service_socket), words)
    service.start()
    for said in (word, *map(Word.parse, words.lines())):
        service.take(said)
    tell("ready", pid=os.getpid())
    due_s: float | None = None
    try:
        while wakeup.wait(due_s):
            due_s = None
            try:
                for line in words.lines():
                    service.take(Word.parse(line))
                due_s = service.assemble()
            except Exception as error:  # noqa: BLE001 - border of the loop: what waits stays in spool and ledger
                logger.error("assembling failed: %s; it is tried again in a second", place_of(error))
            time.sleep(_POKE_GAP_S)
    finally:
        service.stop()
        wakeup.close()
        paths.service_socket.unlink(missing_ok=True)
        tell("stopped")
