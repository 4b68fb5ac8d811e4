"""`status`, `series`, `dead-letter` and `serve` as a user calls them, on a ledger made by the node's own intake.

No service runs here, so changes are made by the command itself under the spool lock; a running service is asked in
`test_node` and `test_node_recovery`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import select
from typer import Typer
from typer.testing import CliRunner

from dicom_node.commands import journey
from dicom_node.errors import NodeError, Refused
from dicom_node.ledger.refusals import Refusal, note_refusal
from dicom_node.ledger.spool import InstanceMeta
from dicom_node.ledger.states import CommitmentState, DeliveryState, State
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Job, Series
from dicom_node.operate.guard import spool_lock
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.net.tls_cases import Authority
from tests.dicom_node.node_cases import Room, association, head_stack, receive

CONFIG = """
[node]
ae_title = "JMMDA_NODE"
data_dir = "data"

[[peers]]
name = "scanner"
ae_titles = ["SCANNER"]
host = "127.0.0.1"
roles = ["source"]

[[peers]]
name = "pacs"
ae_titles = ["PACS"]
host = "127.0.0.1"
port = 11199
roles = ["destination"]

[[routes]]
from_ae = "SCANNER"
destinations = ["pacs"]
"""

HEAD, GAP, SCOUT = uid("study", "head"), uid("gap", "gap"), uid("study", "scout")

app = Typer()
journey.register(app)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def room(tmp_path: Path, config: Path):
    """A node at rest with one queued, one refused and one skipped series, and a file in the quarantine."""
    made = Room(tmp_path / "data")
    receive(made, head_stack(series="head"))
    receive(made, head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    receive(made, head_stack(12, study="gap", series="gap") + head_stack(10, start=15, study="gap", series="gap"))
    with association(made.incoming) as journal:
        journal.store([b"garbage" * 50], InstanceMeta("1.2", "1.3", "1.2.840.10008.1.2.1"))
    made.settle()
    yield made
    made.ledger.close()


def _run(*arguments: object, config: Path):
    result = CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _json(*arguments: object, config: Path):
    result = _run(*arguments, "--json", config=config)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_status_of_a_node_that_never_ran_is_all_zero(config: Path):
    status = _json("status", config=config)
    assert not status["processes"]["running"]
    assert set(status["series"].values()) == {0}
    assert "not running" in _run("status", config=config).stdout
    assert not (config.parent / "data").exists()


def test_status_tells_whom_the_node_turned_away(config: Path):
    run = config.parent / "data" / "run"
    run.mkdir(parents=True)
    stranger = Refusal("calling_ae", "AE title 'X[1]' is not in the configuration", "10.0.0.1", "X[1]", "JMMDA_NODE")
    for refusal in (stranger, stranger, *(Refusal("busy", "full", f"10.0.1.{n}") for n in range(10))):
        note_refusal(run, refusal)
    (*_, first) = _json("status", config=config)["refused"]
    assert (first["code"], first["count"], first["calling_ae"]) == ("calling_ae", 2, "X[1]")
    told = _run("status", config=config).stdout
    assert told.count("busy: full") == 10
    assert "... and 1 others: status --json" in told
    note_refusal(run, stranger)
    told = _run("status", config=config).stdout
    assert re.search(r"3 x since .* calling_ae: AE title 'X\[1\]' is not in the configuration", told)


def test_status_says_how_long_our_certificate_lasts(config: Path, tmp_path: Path):
    assert _json("status", config=config)["certificate_days_left"] is None
    ours = Authority(tmp_path / "authority").issue("node")
    tls = f'[tls]\nport = 2762\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\nca = "{ours.certificate}"\n'
    config.write_text(CONFIG + tls)
    days = _json("status", config=config)["certificate_days_left"]
    assert 0 < days < 4000
    assert f"our TLS certificate: {days:.0f} days left" in _run("status", config=config).stdout
    ours.certificate.write_text("no certificate")
    assert _json("status", config=config)["certificate_days_left"] is None


def test_status_counts(room: Room, config: Path):
    status = _json("status", config=config)
    assert {state: count for state, count in status["series"].items() if count} == {
        "QUEUED": 1,
        "REFUSED": 1,
        "SKIPPED": 1,
    }
    assert status["set_aside"] == 1
    text = _run("status", config=config).stdout
    assert "QUEUED 1" in text
    assert re.search(r"wait +1", text)


def test_list_shows_state_reason_and_what_was_set_aside(room: Room, config: Path):
    listed = _json("series", "list", config=config)
    assert {one["series_instance_uid"]: one["code"] for one in listed["series"]} == {
        HEAD: None,
        SCOUT: "localizer",
        GAP: "gap",
    }
    assert [one["code"] for one in listed["set_aside"]] == ["unreadable"]
    text = _run("series", "list", config=config).stdout
    for word in (HEAD, "REFUSED", "gap", "unreadable"):
        assert word in text


def test_list_can_be_narrowed(room: Room, config: Path):
    refused = _json("series", "list", "--state", "refused", config=config)["series"]
    assert [one["series_instance_uid"] for one in refused] == [GAP]
    of_study = _json("series", "list", "--study", uid("study"), config=config)["series"]
    assert len(of_study) == 2
    assert _run("series", "list", "--state", "LOST", config=config).exit_code == 2


def test_show_explains_a_refusal_with_its_numbers(room: Room, config: Path):
    (story,) = _json("series", "show", GAP, config=config)
    assert story["state"] == "REFUSED"
    assert story["figures"]
    assert [event["after"] for event in story["history"] if event["after"]] == ["COMPLETE", "REFUSED"]
    text = _run("series", "show", GAP, config=config).stdout
    assert "COMPLETE -> REFUSED (gap" in text
    assert "Series of the study" in text
    assert [(row["code"], row["chosen"], row["state"]) for row in story["choice"]] == [("chosen", True, "REFUSED")]


def test_show_puts_signs_and_expected_counts_into_words(room: Room, config: Path):
    text = _run("series", "show", HEAD, config=config).stdout
    assert "no association of this peer is open, and the last one was released; the positions have no gap" in text
    assert "expected images: nobody said" in text
    with room.ledger.transaction() as change:
        series = change.session.scalars(select(Series).where(Series.series_instance_uid == HEAD)).one()
        series.expected = {"source": 30, "peer": "pacs", "by": "list of images", "header": 28, "acquisition": 26}
        series.signs = ["source_count", "a_sign_of_another_version"]
    text = _run("series", "show", HEAD, config=config).stdout
    assert (
        "expected images: 30 at peer pacs (C-FIND, list of images); 28 by NumberOfSeriesRelatedInstances of the"
        " headers; 26 by ImagesInAcquisition" in text
    )
    assert "all that its source holds is here (C-FIND); a_sign_of_another_version" in text
    (story,) = _json("series", "show", HEAD, config=config)
    assert (story["expected"]["source"], story["signs"][0]) == (30, "source_count")


def test_show_of_something_unknown_is_refused(room: Room, config: Path):
    with pytest.raises(Refused) as caught:
        _run("series", "show", "9.9.9", config=config)
    assert caught.value.code == "unknown_series"


def _state(room: Room, which: str) -> str:
    return room.states()[which]


def test_retry_sends_a_refused_series_through_the_gate_again(room: Room, config: Path):
    (remedy,) = _json("series", "retry", GAP, config=config)
    assert (remedy["before"], remedy["after"]) == ("REFUSED", "COMPLETE")
    room.settings = room.settings.model_copy(
        update={"geometry": room.settings.geometry.model_copy(update={"max_gap_factor": 9.0})}
    )
    room.round()
    assert _state(room, GAP) == "QUEUED"


def test_retry_opens_a_study_without_result_again_for_a_skipped_series(tmp_path: Path, config: Path):
    room = Room(tmp_path / "data")
    receive(room, head_stack(series="head", ConvolutionKernel="H70h"))
    room.settle()
    assert _state(room, HEAD) == "SKIPPED"
    _json("series", "retry", HEAD, config=config)
    selection = room.settings.selection.model_copy(update={"exclude_kernel": ("never",)})
    room.settings = room.settings.model_copy(update={"selection": selection})
    room.settle()
    assert _state(room, HEAD) == "QUEUED"
    room.ledger.close()


@pytest.mark.parametrize(("which", "code"), [(HEAD, "under_way"), (SCOUT, "study_decided"), ("9.9", "unknown_series")])
def test_retry_of_what_cannot_be_retried_says_why(room: Room, config: Path, which: str, code: str):
    before = room.states()
    with pytest.raises(Refused) as caught:
        _run("series", "retry", which, config=config)
    assert caught.value.code == code
    assert room.states() == before


def test_retry_new_makes_a_second_job_that_replaces_the_first(room: Room, config: Path):
    with room.ledger.transaction() as change:
        (series,) = [one for one in _all_series(change) if one.series_instance_uid == HEAD]
        (job,) = series.jobs
        job.result_series_uid = "1.2.3"
        for state in (State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.DELIVERED):
            change.move_job(job, state)
    with pytest.raises(Refused, match="--new"):
        _run("series", "retry", HEAD, config=config)
    (remedy,) = _json("series", "retry", HEAD, "--new", config=config)
    assert (remedy["before"], remedy["after"]) == ("DELIVERED", "QUEUED")
    old, new = room.series(HEAD).jobs
    assert old.state is State.SUPERSEDED
    assert (new.state, new.superseded_series_uid) == (State.QUEUED, "1.2.3")
    assert new.key != old.key
    assert new.input_digest == old.input_digest


def test_retry_new_takes_a_better_series_that_came_after_the_decision(room: Room, config: Path):
    late = uid("study", "late")
    receive(room, head_stack(40, series="late"))
    room.settle()
    assert (room.series(late).state, room.series(late).code) == (State.SKIPPED, "better_series_late")
    with pytest.raises(Refused) as caught:
        _run("series", "retry", late, config=config)
    assert caught.value.code == "study_decided"
    (remedy,) = _json("series", "retry", late, "--new", config=config)
    assert (remedy["before"], remedy["after"]) == ("SKIPPED", "QUEUED")
    assert (_state(room, HEAD), _state(room, SCOUT)) == ("SKIPPED", "SKIPPED")
    assert [job.state for job in room.series(HEAD).jobs] == [State.SUPERSEDED]
    with pytest.raises(Refused) as caught:
        _run("series", "retry", HEAD, "--new", config=config)
    assert caught.value.code == "under_way"


def _all_series(change):
    from sqlalchemy import select

    from dicom_node.ledger.tables import Series

    return change.session.scalars(select(Series)).all()


def test_dead_letters_are_listed_and_replayed(room: Room, config: Path):
    with room.ledger.transaction() as change:
        (series,) = [one for one in _all_series(change) if one.series_instance_uid == HEAD]
        series.jobs[0].attempts = 2
        change.move_job(series.jobs[0], State.SYNTHESIZING)
        change.move_job(series.jobs[0], State.FAILED, code="worker_died", reason="no memory")
    (letter,) = _json("dead-letter", "list", config=config)
    assert (letter["series_instance_uid"], letter["code"]) == (HEAD, "worker_died")
    with pytest.raises(Refused, match="no dead letter"):
        _run("dead-letter", "replay", GAP, config=config)
    assert _run("dead-letter", "replay", config=config).exit_code == 2
    (remedy,) = _json("dead-letter", "replay", "--all", config=config)
    assert remedy["after"] == "QUEUED"
    assert room.series(HEAD).jobs[0].attempts == 0
    assert _json("dead-letter", "list", config=config) == []
    assert "nothing to do" in _run("dead-letter", "replay", "--all", config=config).stdout


def test_a_change_is_not_made_beside_a_running_service(room: Room, config: Path, monkeypatch: pytest.MonkeyPatch):
    from dicom_node.operate import requests

    real = requests.ask
    monkeypatch.setattr(requests, "ask", lambda paths, request: real(paths, request, timeout_s=0.1))
    before = room.states()
    with spool_lock(room.paths), pytest.raises(NodeError) as caught:
        _run("series", "retry", GAP, config=config)
    assert caught.value.code == "no_answer"
    assert room.states() == before


@pytest.mark.parametrize(
    "command",
    [["serve"], ["status"], ["series", "list"], ["series", "show"], ["series", "retry"], ["dead-letter", "list"],
     ["dead-letter", "replay"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_shows_an_example_and_its_exit_codes(command: list[str]):
    text = CliRunner().invoke(app, [*command, "--help"]).stdout
    assert f"jmmda-node {' '.join(command)}" in text
    assert "Exit codes" in text


def test_a_result_that_nobody_confirmed_is_visible_everywhere_and_can_be_asked_for_again(room: Room, config: Path):
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job).where(Job.state == State.QUEUED)).one()
        job.result_series_uid = "9.8"
        delivery = Delivery(destination="pacs", state=DeliveryState.DELIVERED, attempts=1)
        delivery.commitment, delivery.commitment_asked = CommitmentState.UNCONFIRMED, 5
        delivery.commitment_code, delivery.commitment_reason = "commitment_silent", "no report came"
        delivery.instances = [DeliveryInstance(sop_instance_uid="9.8.1", stored=True)]
        job.deliveries.append(delivery)
        for state in (State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.DELIVERED):
            change.move_job(job, state)
    assert _json("status", config=config)["commitments"] == {"WAITING": 0, "COMMITTED": 0, "UNCONFIRMED": 1}
    assert "storage commitment: UNCONFIRMED 1" in _run("status", config=config).stdout
    listed = _run("series", "list", config=config).stdout
    assert "storage commitment: not confirmed by pacs (commitment_silent: no report came)" in listed
    shown = _run("series", "show", "9.8", config=config).stdout
    assert "storage commitment: UNCONFIRMED, 0 of 1 confirmed, asked 5 times (commitment_silent" in shown
    with pytest.raises(Refused, match="--new"):
        _run("series", "retry", "9.8", config=config)
    config.write_text(config.read_text().replace('"destination"]', '"destination", "commitment"]'))
    (remedy,) = _json("series", "retry", "9.8", config=config)
    assert (remedy["after"], remedy["told"]) == ("DELIVERED", "storage commitment is asked for again: pacs")
    (story,) = _json("series", "show", "9.8", config=config)
    (told,) = story["jobs"][0]["deliveries"]
    assert (told["commitment"], told["commitment_asked"], told["commitment_code"]) == ("WAITING", 0, None)
