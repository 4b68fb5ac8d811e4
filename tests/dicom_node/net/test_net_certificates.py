"""Facts about certificate files, compared with what openssl says of the same files."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.errors import Transient
from dicom_node.net.certificates import all_certificate_facts, certificate_facts
from tests.dicom_node.net.tls_cases import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("facts") / "authority")


def dates_by_openssl(path: Path) -> list[datetime]:
    command = ["openssl", "x509", "-in", path, "-noout", "-dates", "-dateopt", "iso_8601"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [datetime.fromisoformat(line.partition("=")[2].replace("Z", "+00:00")) for line in said.splitlines()]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize(
    "end", [timedelta(days=3), timedelta(days=-1), timedelta(days=365 * 40)]
)  # UTC and Generalized
def test_dates_are_those_that_openssl_reads(authority: Authority, kind: str, end: timedelta) -> None:
    start = timedelta(days=-800)  # the last end is written as GeneralizedTime, the others as UTCTime
    made = authority.issue(f"{kind}{end.days}", starts_in=start, ends_in=end, kind=kind)
    facts = certificate_facts(made.certificate, made.key)
    assert [facts.not_before, facts.not_after] == dates_by_openssl(made.certificate)
    assert facts.matches_key is True
    now = datetime.now(UTC)
    assert facts.days_left(now) == pytest.approx(end / timedelta(days=1), abs=0.1)
    assert facts.valid_at(now) is (end > timedelta())
    assert not facts.valid_at(now + start - timedelta(days=1))


def test_names_are_read_and_nothing_else_of_the_owner(authority: Authority) -> None:
    san = "DNS:pacs.example,IP:10.0.0.1,IP:::1,email:someone@example,DNS:*.clinic.example"
    facts = certificate_facts(authority.issue("named", san=san).certificate)
    assert facts.san == ("pacs.example", "10.0.0.1", "::1", "*.clinic.example")
    assert facts.matches_key is None
    assert "someone" not in repr(facts)
    assert certificate_facts(authority.issue("nameless", san="").certificate).san == ()


def test_another_key_does_not_match(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    assert certificate_facts(one.certificate, other.key).matches_key is False


def test_a_chain_is_read_in_its_order(authority: Authority, tmp_path: Path) -> None:
    own = authority.issue("own", ends_in=timedelta(days=5))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own.certificate.read_bytes() + b"\n# the authority\n" + authority.certificate.read_bytes())
    first, second = all_certificate_facts(chain)
    assert first == certificate_facts(own.certificate) == certificate_facts(chain)
    assert second == certificate_facts(authority.certificate)


def test_what_is_no_certificate_is_said(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue("good")
    pem = good.certificate.read_text()
    short = tmp_path / "short.pem"
    short.write_text(pem.replace(pem.splitlines()[3] + "\n", ""))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    odd = tmp_path / "odd.pem"
    odd.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for path in (tmp_path / "missing.pem", tmp_path, short, empty, odd):
        with pytest.raises(Transient) as caught:
            certificate_facts(path)
        assert caught.value.code == "tls_files"
        assert str(path) in caught.value.reason
    good.key.chmod(0o644)
    with pytest.raises(Transient, match="chmod"):
        certificate_facts(good.certificate, good.key)
