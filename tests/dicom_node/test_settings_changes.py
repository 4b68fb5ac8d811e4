"""What differs between two settings, and the schema for editors.

Left out: the commands that print it (`test_config_changes_command`) and reloads (`test_node_reload`).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dicom_node.settings import Settings, parse_settings
from dicom_node.settings.changes import NEEDS_RESTART, changes
from dicom_node.settings.schema import json_schema

PEERS = """
[[peers]]
name = "pacs"
ae_titles = ["PACS"]
host = "10.0.0.1"
port = 104
roles = ["source", "destination"]
[[peers]]
name = "ct"
ae_titles = ["CT1"]
host = "10.0.0.2"
roles = ["source"]
[[routes]]
from_ae = "PACS"
destinations = ["pacs"]
[[routes]]
from_ae = "CT1"
destinations = ["pacs"]
"""


def settings(text: str = "") -> Settings:
    return parse_settings(text, file="node.toml", base=Path("/base"))


def test_equal_settings_differ_in_nothing() -> None:
    assert changes(settings(PEERS), settings("[node]\nport = 11112\n" + PEERS)) == []


def test_the_order_of_entries_does_not_matter() -> None:
    entries = re.split(r"(?=\[\[)", PEERS)
    assert changes(settings(PEERS), settings("\n".join(reversed(entries)))) == []


def test_a_changed_key_is_named_with_both_values() -> None:
    [change] = changes(settings("[intake]\nquiet_s = 11\n"), settings("[intake]\nquiet_s = 12\n"))
    assert (change.key, change.before, change.after) == ("intake.quiet_s", 11.0, 12.0)
    assert not change.needs_restart
    assert not change.new_uids


def test_entries_go_by_their_names() -> None:
    moved = PEERS.replace("10.0.0.1", "10.0.0.9")
    assert [change.key for change in changes(settings(PEERS), settings(moved))] == ["peers.pacs.host"]
    renamed = PEERS.replace('"ct"', '"ct-2"')
    found = changes(settings(PEERS), settings(renamed))
    assert [(change.key, change.before is None, change.after is None) for change in found] == [
        ("peers.ct", False, True),
        ("peers.ct-2", True, False),
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[node]\nport = 104\n", "node.port"),
        ('[node]\nhost = "127.0.0.1"\n', "node.host"),
        ('[node]\ndata_dir = "/srv"\n', "node.data_dir"),
        ('[node]\nnode_id = "other"\n', "node.node_id"),
        ('[ledger]\nurl = "sqlite:////srv/x.sqlite"\n', "ledger.url"),
        ("[workers]\nreceivers = 2\n", "workers.receivers"),
    ],
)
def test_what_is_in_use_needs_a_restart(text: str, key: str) -> None:
    [change] = changes(settings(), settings(text))
    assert change.key == key
    assert change.needs_restart


def test_the_page_names_every_key_that_needs_a_restart() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    listed = page[page.index("cannot change while the node runs") : page.index("Restart the node for")]
    assert set(re.findall(r"`([a-z_.]+)`", listed)) == NEEDS_RESTART


@pytest.mark.parametrize(
    ("text", "new_uids"),
    [
        ('[output]\nobject = "sc"\n', True),
        ("[output]\nwatermark = false\n", True),
        ('[model]\nbundle = "./mine"\n', True),
        ('[node]\nnode_id = "other"\n', True),
        ('[model]\ndevice = "cpu"\n', False),
        ("[geometry]\nmin_slices = 9\n", False),
        ("[model]\nallow_phantom_bundle = true\n", False),
        ("[delivery]\nattempts = 3\n", False),
    ],
)
def test_what_gives_results_new_uids_is_told(text: str, new_uids: bool) -> None:
    [change] = changes(settings(), settings(text))
    assert change.new_uids is new_uids


def test_the_schema_describes_every_key_and_its_default() -> None:
    schema = json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert all(entry["description"] for entry in schema["properties"].values())
    for name, definition in schema["$defs"].items():
        if "properties" not in definition:
            continue
        assert definition["additionalProperties"] is False, name
        assert definition["description"], name
        assert "`dicom_node" not in definition["description"], "a pointer into the code says nothing in an editor"
        for key, entry in definition["properties"].items():
            assert entry["description"], f"{name}.{key}"
            sometimes = {one for option in definition.get("anyOf", ()) for one in option["required"]}
            assert "default" in entry or key in {*definition["required"], *sometimes}, f"{name}.{key}"
