"""The Debian package: control fields, files, scripts; and its life in a throwaway machine with a real systemd.

The package is built without its dependencies, which come from the environment of the tests. Left out: the package with
its dependencies, which `packaging/try_deb.sh` tries in the same way.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.packages import PACKAGING, PYTHON, REPOSITORY, dependencies

SCRIPTS = sorted(path for path in PACKAGING.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!"))

pytestmark = pytest.mark.xdist_group("box")


def _tool(*words: object) -> str:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_shell(script: Path) -> None:
    shell = script.read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n", script], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_control_fields_say_what_it_is_and_needs(quick_package: Path) -> None:
    version = quick_package.name.split("_")[1]
    fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", _tool("dpkg-deb", "--field", quick_package), re.M))
    assert fields["Package"] == "jmmda-node"
    assert fields["Version"] == version
    assert PYTHON.name in fields["Depends"].split(", "), "the environment inside needs this very Python"
    assert int(fields["Installed-Size"]) > 10_000
    assert not re.search(r"@[A-Z]+@", " ".join(fields.values())), "a field was not filled in"


def test_the_files_lie_where_they_belong(quick_package: Path) -> None:
    listed = _tool("dpkg-deb", "--contents", quick_package).splitlines()
    files = {line.split(" ./")[1].split(" -> ")[0]: line for line in listed if " ./" in line}
    expected = {
        "usr/bin/jmmda-node", "usr/lib/systemd/system/jmmda-node.service", "usr/lib/systemd/system/jmmda-node.slice",
        "usr/lib/sysusers.d/jmmda-node.conf", "etc/jmmda-node/node.toml", "opt/jmmda-node/bin/jmmda-node",
        "opt/jmmda-node/share/jmmda-node/admin-guide.md", "opt/jmmda-node/share/jmmda-node/gpu.conf",
        "usr/share/doc/jmmda-node/copyright",
    }  # fmt: skip
    assert expected <= set(files)
    assert all(" root/root " in line for line in listed)
    assert files["etc/jmmda-node/node.toml"].startswith("-rw-r-----")
    assert files["var/lib/jmmda-node/"].startswith("drwx------")
    assert not any("direct_url.json" in name or "/site-packages/pip" in name for name in files)
    compiled = f"dicom_node/__pycache__/cli.cpython-{PYTHON.name[6:].replace('.', '')}.pyc"
    assert any(name.endswith(compiled) for name in files)


def test_nothing_in_it_names_the_folder_it_was_built_in(quick_package: Path, tmp_path: Path) -> None:
    _tool("dpkg-deb", "--raw-extract", quick_package, tmp_path / "tree")
    search = ["grep", "-rlE", r"/tmp/tmp\.|jmmda-node\.new", tmp_path / "tree"]
    found = subprocess.run(search, capture_output=True, text=True)
    assert found.stdout == ""
    sums = (tmp_path / "tree" / "DEBIAN" / "md5sums").read_text()
    assert "opt/jmmda-node/bin/jmmda-node" in sums
    assert (tmp_path / "tree" / "DEBIAN" / "conffiles").read_text() == "/etc/jmmda-node/node.toml\n"
    program = (tmp_path / "tree/opt/jmmda-node/bin/jmmda-node").read_text()
    assert program.startswith("#!/opt/jmmda-node/bin/python")


@pytest.mark.slow
def test_it_installs_upgrades_and_goes(quick_package: Path) -> None:
    """Installation, example settings, start by systemd, upgrade, older ledger, removal, purge: the script says what."""
    command = [PACKAGING / "try_deb.sh", quick_package, dependencies()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("try_deb: PASS\n")
