"""README and docs: every command in them parses against the real command line, and the safe ones are run.

Left out: `make` targets, which run as themselves in continuous integration; the administrator's guide beyond its
syntax, which `tests/peers/test_admin_guide` follows on a machine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from dicom_node.cli import app

#: Typer carries its own copy of click; this is that copy's class for everything wrong on a command line.
UsageError = typer.BadParameter.__base__
REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def _commands(page: Path) -> list[str]:
    text = page.read_text()
    text = re.sub(r"\\\n\s*", " ", text)  # a command may go on after a backslash
    blocks = "\n".join(re.findall(r"^\s*```[\w ]*\n(.*?)^\s*```", text, re.S | re.M))
    inline = re.findall(r"`(jmmda-node [a-z][^`]*)`", text)
    lines = [line.strip() for line in blocks.splitlines() if line.strip().startswith("jmmda-node ")]
    return [line.split("  #")[0].strip() for line in [*lines, *inline]]


ALL = sorted({(page.name, command) for page in PAGES for command in _commands(page)})


def _parse(command: str) -> None:
    """Walk down the command tree and let the last command parse its arguments, without running it."""
    words = shlex.split(command)[1:]
    current = typer.main.get_command(app)
    while words and hasattr(current, "commands"):
        name = words.pop(0)
        if name in [option for parameter in current.params for option in parameter.opts]:
            return  # an option of the whole program, such as --version
        assert name in current.commands, f"no command {name!r} in: {command}"
        current = current.commands[name]
    if not hasattr(current, "commands"):
        current.make_context(current.name, words)


def test_there_are_commands_to_check() -> None:
    assert len(ALL) >= 12


@pytest.mark.parametrize(("page", "command"), ALL)
def test_the_command_exists_with_these_options(page: str, command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    _parse(command)


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(UsageError):
        _parse("jmmda-node status --no-such-option")
    with pytest.raises(AssertionError, match="no command"):
        _parse("jmmda-node series no-such-command")


def test_files_and_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = page.read_text()
        without_code = re.sub(r"`[^`\n]+`", "", text)  # where a regular expression may look like a link
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", without_code):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for target in re.findall(r"^\s*(?:`)?make ([a-z-]+)", text, re.M):
            assert target in targets, f"{page.name}: make {target}"


def test_the_settings_of_the_readme_can_be_made_and_checked(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_COLOR": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dicom_node.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=60)

    assert run("config", "init", "node.toml", "--yes").returncode == 0
    checked = run("config", "check", "node.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shown = run("model", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "phantom" in shown.stdout
