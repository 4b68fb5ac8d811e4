"""Settings from a file: every fault is named with its line, and the rules between sections hold.

Covers the loader, the models and the questions asked of loaded settings. Leaves out the annotated template
(`test_settings_template`), the position scanner by itself (`test_settings_positions`) and the values of geometry,
selection and output, which are tested beside their rules.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node.settings import (
    IntakeSettings,
    LogLevel,
    Peer,
    Role,
    Settings,
    SettingsError,
    load_settings,
    parse_settings,
)

PACS = """
[[peers]]
name = "pacs"
ae_titles = ["PACS", " PACS_STORE "]
host = "10.0.0.1"
port = 104
roles = ["source", "destination"]
"""


def faults_of(text: str) -> dict[str, tuple[int, str]]:
    """Key -> (line, reason) of every fault of a text."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, file="node.toml", base=Path("/base"))
    return {fault.key: (fault.line, fault.reason) for fault in caught.value.faults}


def accepted(text: str) -> Settings:
    return parse_settings(text, file="node.toml", base=Path("/base"))


def test_an_empty_file_gives_all_defaults() -> None:
    settings = accepted("")
    assert settings == Settings()
    assert settings.node.log_level is LogLevel.INFO
    assert settings.intake.settle_s == 2.0
    assert settings.delivery.attempts == 60
    assert settings.workers.receivers == 1


def test_three_faults_of_different_kinds_are_all_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        "[node]\n"
        'ae_tilte = "X"\n'  # 2: misspelt key
        "\n"
        "[[peers]]\n"
        'name = "pacs"\n'
        'ae_titles = ["PACS"]\n'
        'host = "10.0.0.1"\n'
        "port = 70000\n"  # 8: value out of range
        'roles = ["destination"]\n'
        "\n"
        "[[routes]]\n"
        'from_ae = "CT1"\n'
        'destinations = ["pacz"]\n'  # 13: a rule between sections
    )
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    lines = str(caught.value).splitlines()
    assert lines == [
        f"{file}:2: node.ae_tilte: unknown key; did you mean 'ae_title'?",
        f"{file}:8: peers[0].port: should be less than or equal to 65535",
        f"{file}:13: routes[0].destinations[0]: unknown peer 'pacz'; did you mean 'pacs'?",
    ]
    assert caught.value.code == "settings"


@pytest.mark.parametrize(
    ("text", "key", "line", "words"),
    [
        ("[nodee]\n", "nodee", 1, "did you mean 'node'?"),
        ("[intake]\n\nmin_slices = 3\n", "intake.min_slices", 3, "it belongs to [selection]"),
        ('[node]\nport = "x"\n', "node.port", 2, "valid integer"),
        ("[node]\nport = 0\n", "node.port", 2, "greater than or equal to 1"),
        ('[node]\nlog_level = "DEBUGX"\n', "node.log_level", 2, "did you mean 'DEBUG'?"),
        ('[node]\nae_title = "SEVENTEEN_LETTERS"\n', "node.ae_title", 2, "at most 16 characters, this one has 17"),
        ('[node]\nae_title = "  "\n', "node.ae_title", 2, "at least one character"),
        ('[node]\nae_title = "A\\\\B"\n', "node.ae_title", 2, "no backslash"),
        ('[node]\nae_title = "ÄE"\n', "node.ae_title", 2, "printable ASCII"),
        ('[node]\nhost = "dicom://pacs"\n', "node.host", 2, "without scheme"),
        ("[intake]\nquiet_s = 1.0\n", "intake.quiet_s", 2, "between settle_s and hard_cap_s"),
        ("[delivery]\nfirst_wait_s = 700\n", "delivery.longest_wait_s", 1, "shorter than first_wait_s"),
        ('[model]\ndevice = "gpu"\n', "model.device", 2, "cuda:N"),
        ('[ledger]\nurl = "mysql://x"\n', "ledger.url", 2, "sqlite:///"),
        ('peers = [{ name = "a" }]\n', "peers[0].host", 1, "required"),
        (PACS.replace('"destination"]', '"destinationx"]'), "peers[0].roles[1]", 7, "did you mean 'destination'?"),
        (PACS.replace("port = 104\n", ""), "peers[0].port", 2, "required, because we connect"),
        (PACS.replace('["PACS", " PACS_STORE "]', "[]"), "peers[0].ae_titles", 4, "at least one entry"),
    ],
)
def test_a_bad_value_is_named_with_key_line_and_reason(text: str, key: str, line: int, words: str) -> None:
    faults = faults_of(text)
    assert key in faults, faults
    assert faults[key][0] == line
    assert words in faults[key][1]


def test_a_fault_inside_an_array_of_tables_has_the_line_of_its_own_table() -> None:
    second = PACS.replace('"pacs"', '"other"').replace("104", "-1").replace("10.0.0.1", "10.0.0.2")
    faults = faults_of(PACS + second)
    assert set(faults) == {"peers[1].port"}
    assert faults["peers[1].port"][0] == 13


@pytest.mark.parametrize(
    ("text", "line"), [("a = [1,\n\n", 3), ("\nx\n", 2), ("[node]\nport=1\nport=2\n", 3), ("[node\n", 1)]
)
def test_text_that_is_not_toml_is_one_fault_with_its_line(text: str, line: int) -> None:
    faults = faults_of(text)
    assert set(faults) == {""}
    assert faults[""][0] == line
    assert "not valid TOML" in faults[""][1]


def test_a_file_that_is_missing_or_not_text_is_a_fault_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[node]\nae_title = '\xff'\n")
    with pytest.raises(SettingsError, match=r"binary\.toml:2: is not UTF-8"):
        load_settings(binary)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b"\xef\xbb\xbf[node]\nport = 104\n")
    assert load_settings(file).node.port == 104


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (PACS + PACS, "peers[1].name", "already defined as peers[0]"),
        (PACS + PACS.replace('"pacs"', '"twin"'), "peers[1].ae_titles", "already belongs to peer 'pacs'"),
        (
            PACS + '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n',
            "peers[0].ae_titles",
            "no route for 'PACS_STORE'",
        ),
        (PACS.replace(', "destination"', ""), "peers[0].roles", "no peer has role destination"),
        (
            PACS.replace('["source", "destination"]', '["destination"]')
            + '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n',
            "routes[0].from_ae",
            "no peer with role source",
        ),
        (
            PACS.replace(', "destination"', ', "query"') + '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n',
            "routes[0].destinations[0]",
            "has no role destination",
        ),
        (PACS + 'committed_by = "pasc"\n', "peers[0].committed_by", "unknown peer 'pasc'"),
        (PACS + 'committed_by = "pacs"\n', "peers[0].committed_by", "has no role commitment"),
        (
            PACS.replace(', "destination"', ', "commitment"') + 'committed_by = "pacs"\n',
            "peers[0].committed_by",
            "has no role destination",
        ),
        (
            PACS + 2 * '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n',
            "routes[1].from_ae",
            "already has a route",
        ),
        ('[node]\nae_title = "PACS"\nport = 104\n' + PACS, "peers[0].port", "this node itself"),
        ("[node]\nport = 104\n" + PACS.replace("10.0.0.1", "127.0.0.1"), "peers[0].port", "this node itself"),
        (
            "[node]\naccept_any_calling_ae = true\n"
            + PACS
            + '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n'
            + '[[routes]]\nfrom_ae = "PACS_STORE"\ndestinations = ["pacs"]\n',
            "node.accept_any_calling_ae",
            "no route",
        ),
    ],
)
def test_rules_between_sections(text: str, key: str, words: str) -> None:
    faults = faults_of(text)
    assert key in faults, faults
    assert words in faults[key][1]


def test_a_faulty_peer_does_not_make_its_routes_look_wrong() -> None:
    text = PACS.replace("port = 104", "port = 0") + '[[routes]]\nfrom_ae = "PACS"\ndestinations = ["pacs"]\n'
    assert set(faults_of(text)) == {"peers[0].port"}


def test_the_rules_between_sections_hold_without_a_file_too() -> None:
    peer = Peer(name="pacs", ae_titles=("PACS",), host="10.0.0.1", roles=(Role.SOURCE,))
    with pytest.raises(ValidationError, match="no peer has role destination"):
        Settings(peers=(peer,))


def test_settings_are_frozen_and_titles_lose_their_spaces() -> None:
    settings = accepted(PACS)
    assert settings.peers[0].ae_titles == ("PACS", "PACS_STORE")
    with pytest.raises(ValidationError):
        settings.node.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        IntakeSettings(settle=1)  # type: ignore[call-arg]


def test_paths_count_from_the_folder_of_the_file() -> None:
    settings = accepted('[node]\ndata_dir = "data"\n[model]\nbundle = "./bundles/mine"\n')
    assert settings.node.data_dir == Path("/base/data")
    assert settings.model.bundle == "/base/bundles/mine"
    assert settings.ledger_url == "sqlite:////base/data/ledger.sqlite"
    assert accepted('[node]\ndata_dir = "/srv/x"\n').node.data_dir == Path("/srv/x")
    assert accepted("").model.bundle == "builtin"
    assert accepted('[ledger]\nurl = "sqlite:////x.db"\n').ledger_url == "sqlite:////x.db"


ROUTED = (
    PACS
    + """
[[peers]]
name = "ct"
ae_titles = ["CT1"]
host = "10.0.0.2"
roles = ["source"]
[[peers]]
name = "archive"
ae_titles = ["ARCHIVE"]
host = "10.0.0.3"
port = 104
roles = ["destination"]
[[peers]]
name = "ct-annex"
ae_titles = ["CT1"]
host = "10.0.0.4"
roles = ["source"]
"""
)
ROUTES = """
[[routes]]
from_ae = "CT1"
destinations = ["archive"]
[[routes]]
from_ae = "PACS"
destinations = ["archive", "pacs"]
[[routes]]
from_ae = "PACS_STORE"
destinations = ["pacs"]
"""


def test_without_routes_every_destination_gets_the_result() -> None:
    settings = accepted(ROUTED)
    assert [peer.name for peer in settings.destinations_for("CT1")] == ["pacs", "archive"]


def test_with_routes_only_the_named_destinations_get_it() -> None:
    settings = accepted(ROUTED + ROUTES)
    assert [peer.name for peer in settings.destinations_for("CT1 ")] == ["archive"]
    assert [peer.name for peer in settings.destinations_for("PACS_STORE")] == ["pacs"]
    assert [peer.name for peer in settings.destinations_for("PACS")] == ["pacs", "archive"]
    assert settings.destinations_for("UNKNOWN") == ()


def test_a_caller_is_found_by_title_and_told_apart_by_address() -> None:
    settings = accepted(ROUTED)

    def name(calling_ae: str, host: str) -> str | None:
        peer = settings.peer_of(calling_ae, host)
        return peer and peer.name

    assert name("PACS_STORE ", "10.0.0.1") == "pacs"
    assert name("CT1", "10.0.0.4") == "ct-annex"
    assert name("CT1", "10.9.9.9") == "ct"
    assert name("ct1", "10.0.0.2") is None
    pacs = settings.peer("pacs")
    assert pacs is not None
    assert pacs.called_ae_title == "PACS"
    assert pacs.has_role("source")
    assert settings.peer("nobody") is None
