"""The DICOMweb keys of a peer: what may stand together, and what each fault says.

Left out: what is done with them (`test_net_stow`), all other keys (`test_settings`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dicom_node.receive.planning import receiver_plan
from dicom_node.settings import Settings, SettingsError, parse_settings
from dicom_node.settings.template import plain

PEER = '[[peers]]\nname = "archive"\nroles = ["destination"]\n'
URL = 'dicomweb_url = "https://archive.example/dicom-web"\n'


def _read(text: str) -> Settings:
    return parse_settings(text, file="node.toml", base=Path("/etc/node"))


def _faults(text: str) -> list[tuple[str, str]]:
    with pytest.raises(SettingsError) as caught:
        _read(text)
    return [(fault.key, fault.reason) for fault in caught.value.faults]


def test_an_address_is_enough_for_a_destination() -> None:
    settings = _read(PEER + 'dicomweb_url = "https://archive.example:8443/dicom-web/"\ndicomweb_token_file = "token"\n')
    (peer,) = settings.peers
    assert peer.web is not None
    assert (peer.web.url, peer.web.token_file) == ("https://archive.example:8443/dicom-web", Path("/etc/node/token"))
    assert (peer.ae_titles, peer.host, peer.called_ae_title) == ((), "archive.example", "")
    assert settings.destinations == (peer,)
    assert receiver_plan(settings).callers == (), "nobody calls from there"
    assert _read(plain(settings)) == settings


def test_a_pacs_may_have_both_doors() -> None:
    text = '[[peers]]\nname = "pacs"\nae_titles = ["PACS"]\nhost = "10.0.0.1"\nport = 104\n'
    (peer,) = _read(text + 'roles = ["source", "destination", "query"]\n' + URL).peers
    assert (peer.called_ae_title, peer.host, peer.port) == ("PACS", "10.0.0.1", 104)
    assert peer.web is not None
    (peer,) = _read(text.replace("port = 104\n", "") + 'roles = ["source", "destination"]\n' + URL).peers
    assert peer.port is None, "nothing is sent to its DICOM port"
    text = text.replace("port = 104\n", "") + 'roles = ["source", "destination", "query"]\n' + URL
    assert _faults(text) == [
        ("peers[0].port", "required, because we connect to a peer with role destination, query or commitment")
    ]


@pytest.mark.parametrize(("keys", "key", "words"), [
    ('dicomweb_url = "ftp://archive.example/"\n', "dicomweb_url", "must be an address like"),
    ('dicomweb_url = "archive.example/dicom-web"\n', "dicomweb_url", "must be an address like"),
    ('dicomweb_url = "https://archive.example:99999/"\n', "dicomweb_url", "must be an address like"),
    ('dicomweb_url = "https://[::1/"\n', "dicomweb_url", "must be an address like"),
    ('dicomweb_url = "https://me:secret@archive.example/"\n', "dicomweb_url", "must not hold credentials"),
    ('dicomweb_url = "https://archive.example/?key=secret"\n', "dicomweb_url", "without ? and #"),
    (URL + 'dicomweb_token_file = "a"\ndicomweb_credentials_file = "b"\n', "dicomweb_credentials_file", "not together"),
    (URL + 'dicomweb_key_file = "a"\n', "dicomweb_key_file", "needs dicomweb_certificate_file"),
    ('dicomweb_url = "http://archive.example/"\ndicomweb_token_file = "a"\n', "dicomweb_url", "must be https"),
    ('dicomweb_url = "http://localhost/"\ndicomweb_ca_file = "a"\n', "dicomweb_ca_file", "needs an https address"),
    (URL + 'dicomweb_tokenfile = "a"\n', "dicomweb_tokenfile", "did you mean 'dicomweb_token_file'?"),
])  # fmt: skip
def test_every_fault_names_its_key(keys: str, key: str, words: str) -> None:
    found = dict(_faults(PEER + keys))
    assert words in found[f"peers[0].{key}"]
    assert "secret" not in str(found)


def test_what_needs_an_address_or_an_ae_title_says_so() -> None:
    dimse = '[[peers]]\nname = "pacs"\nae_titles = ["PACS"]\nhost = "10.0.0.1"\nport = 104\nroles = ["destination"]\n'
    assert _faults(dimse + 'dicomweb_ca_file = "a"\n') == [
        ("peers[0].dicomweb_ca_file", "needs dicomweb_url beside it")
    ]
    assert _faults(PEER.replace('["destination"]', '["source", "destination"]') + URL)[0][0] == "peers[0].ae_titles"
    assert {key for key, _ in _faults(PEER)} == {"peers[0].ae_titles", "peers[0].host"}
    assert _read(PEER + 'dicomweb_url = "http://127.0.0.1:8042/dicom-web"\ndicomweb_token_file = "a"\n').peers


def test_the_examples_of_the_page_are_valid() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "dicomweb.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert len(examples) == 2
    for example in examples:
        assert _read(example).peers[0].web is not None


def test_the_schema_for_editors_knows_both_kinds_of_peer() -> None:
    schema = Settings.model_json_schema()["$defs"]["Peer"]
    assert schema["required"] == ["name", "roles"]
    assert schema["anyOf"] == [{"required": ["dicomweb_url"]}, {"required": ["ae_titles", "host"]}]
    assert json.dumps(schema)
