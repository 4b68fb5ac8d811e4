"""The pictures of docs/viewers.md without a browser: the small web server, the pinned packages, what counts as a fault.

Left out: the proxied DICOMweb (tests/peers/test_viewer_proxy.py), npm, and the browser itself: `make screenshots`
takes minutes and needs Chromium and npm's registry, which continuous integration does without.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.viewer import packages, pictures
from benchmarks.viewer.serving import ViewerSite, serving
from dicom_node.demo.throwaway import free_port
from dicom_node.dicom.output_rules import OutputSettings

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def site(tmp_path: Path) -> ViewerSite:
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<html>viewer</html>")
    (dist / "app-config.js").write_text("window.config = 'its own';")
    (dist / "assets" / "part.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("not for the browser")
    return ViewerSite(dist, packages.HERE / "app-config.js", free_port())


def _get(address: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_the_viewer_and_our_settings_are_served(site: ViewerSite) -> None:
    with serving(site) as base:
        assert _get(f"{base}/")[2] == b"<html>viewer</html>"
        # A path of the viewer's own router.
        assert _get(f"{base}/viewer?StudyInstanceUIDs=1.2.3&hangingProtocolId=ctBesideSynthetic")[0] == 200
        assert _get(f"{base}/assets/part.wasm") == (200, "application/wasm", b"\0asm")
        status, kind, body = _get(f"{base}/app-config.js")
    assert (status, kind) == (200, "text/javascript")
    assert body == (packages.HERE / "app-config.js").read_bytes()


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", "/no.js"])
def test_nothing_else_is_served(site: ViewerSite, path: str) -> None:
    with serving(site) as base:
        status, _, body = _get(base + path)
    assert (status, body) == (404, b"not found\n")


def test_an_archive_that_does_not_answer_is_a_bad_gateway(site: ViewerSite) -> None:
    with serving(site) as base:
        assert _get(f"{base}/dicom-web/studies")[0] == 502


def test_every_hanging_protocol_that_is_asked_for_is_in_the_settings(tmp_path: Path) -> None:
    config = (packages.HERE / "app-config.js").read_text()
    offered = set(re.findall(r"protocol\('(\w+)'", config))
    asked = {shot.protocol for name in ("phantom", "head-ct") for shot in pictures.shots_of(name, "1.2.3", tmp_path)}
    assert asked
    assert asked <= offered
    assert re.findall(r"startsWith: \{ value: '(\w+)' \}", config) == [pictures.FIRST_WORD]
    assert OutputSettings().series_description.startswith(pictures.FIRST_WORD)


def test_the_lock_file_is_that_of_the_package_file() -> None:
    wanted = json.loads((packages.HERE / "package.json").read_text())["dependencies"]
    locked = json.loads((packages.HERE / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version


def _fake_npm(content: bytes):
    """Stand in for npm: `pack` leaves an archive, `ci` a folder."""

    def npm(folder: Path, *words: str) -> None:
        if words[0] == "ci":
            (folder / "node_modules").mkdir(exist_ok=True)
            return
        with tarfile.open(folder / "ohif-app.tgz", "w:gz") as archive:
            entry = tarfile.TarInfo("package/dist/index.html")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    return npm


def test_a_package_with_another_digest_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(packages, "_npm", _fake_npm(b"something else"))
    with pytest.raises(SystemExit, match="its digest differs"):
        packages.ensure(tmp_path)
    assert not (tmp_path / "package").exists()
    assert not packages.installed(tmp_path)


def test_what_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(packages, "_npm", _fake_npm(b"viewer"))
    monkeypatch.setattr(packages, "digest_of", lambda path: packages.pinned()[1])
    dist = packages.ensure(tmp_path)
    assert (dist / "index.html").read_bytes() == b"viewer"

    def fail(*words: object) -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(packages, "_npm", fail)
    assert packages.ensure(tmp_path) == dist


def test_digest_is_in_the_form_of_npm(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    known = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    assert packages.digest_of(tmp_path / "empty") == known


def test_a_synthetic_series_that_does_not_name_itself_is_a_fault() -> None:
    good = {"out": "a.png", "panes": ["CT | I:1 (1/2)", "SYNTHETIC DWI | I:1 (1/2)"], "series": ["CT", "SYNTHETIC DWI"]}
    assert pictures.faults([good]) == []
    bad = {**good, "panes": ["CT", "DWI"], "series": ["CT", "DWI SYNTHETIC"]}
    assert len(pictures.faults([good, bad])) == 2


def test_a_heavy_picture_is_brought_below_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(1).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > pictures.PICTURE_LIMIT_BYTES
    size = pictures.shrink(path)
    assert size == path.stat().st_size
    assert size <= pictures.PICTURE_LIMIT_BYTES
    with Image.open(path) as picture:
        assert picture.width / picture.height == pytest.approx(700 / 600, rel=0.02)


def test_pictures_in_the_documentation_are_light_and_used() -> None:
    page, folder = (REPOSITORY / "docs" / "viewers.md").read_text(), REPOSITORY / "docs" / "pictures"
    shots = [shot for name in ("phantom", "head-ct") for shot in pictures.shots_of(name, "1.2.3", folder)]
    for path in [*(Path(shot.out) for shot in shots), folder / "thumbnail-phantom.png"]:
        assert path.stat().st_size <= pictures.PICTURE_LIMIT_BYTES, path.name
        assert f"pictures/{path.name}" in page
