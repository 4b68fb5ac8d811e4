"""From a TOML file to `Settings`, or to a list of all its faults with their lines."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dicom_node.settings.checks import Parts, cross_faults
from dicom_node.settings.explanations import explain
from dicom_node.settings.faults import Fault, SettingsError
from dicom_node.settings.kinds import wrong_kinds
from dicom_node.settings.model import Settings
from dicom_node.settings.peers import Peer
from dicom_node.settings.positions import KeyPath, key_lines, line_of
from dicom_node.settings.sections import NAME_PATTERN, NodeSettings, Route
from dicom_node.settings.tls import TlsSettings, absolute

_SYNTAX_POSITION = re.compile(r"\s*\(at line (\d+), column \d+\)|\s*\(at end of document\)")

_NAME = re.compile(NAME_PATTERN)

ModelT = TypeVar("ModelT", bound=BaseModel)


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """Read and check a settings file.

    Parameters
    ----------
    path : path-like
        The TOML file. Relative paths inside it count from its own folder.

    Returns
    -------
    Settings
        Frozen effective settings, defaults filled in.

    Raises
    ------
    SettingsError
        With every fault of the file, in the order of its lines.
    """
    file = Path(path)
    text = _read_text(file)
    return parse_settings(text, file=str(file), base=file.absolute().parent)


def parse_settings(text: str, *, file: str, base: Path) -> Settings:
    """Parse TOML text as `load_settings` does.

    Parameters
    ----------
    text : str
        The TOML.
    file : str
        Name of the file in faults.
    base : Path
        Folder from which relative paths count.

    Raises
    ------
    SettingsError
        With every fault.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([_syntax_fault(error, text, file)]) from None
    found = [*_field_faults(raw), *cross_faults(_valid_parts(raw))]
    if found:
        lines = key_lines(text)
        faults = {Fault(file, line_of(lines, path), _dotted(path), reason) for path, reason in found}
        raise SettingsError(sorted(faults, key=lambda fault: (fault.line, fault.key, fault.reason)))
    return _with_absolute_paths(Settings.model_validate(raw), base)


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([Fault(str(file), 0, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError([Fault(str(file), line, "", "is not UTF-8 text")]) from error


def _syntax_fault(error: tomllib.TOMLDecodeError, text: str, file: str) -> Fault:
    message = str(error)
    position = _SYNTAX_POSITION.search(message)
    line = int(position[1]) if position and position[1] else text.count("\n") + 1
    return Fault(file, line, "", f"not valid TOML: {_SYNTAX_POSITION.sub('', message)}")


def _field_faults(raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    loose = dict(wrong_kinds(Settings, raw))
    yield from loose.items()
    try:
        Settings.model_validate(raw)
    except ValidationError as error:
        yield from explain(error.errors(include_url=False), loose)


def _valid_parts(raw: Mapping[str, Any]) -> Parts:
    peers, all_peers_valid = _valid_entries(Peer, raw.get("peers", []))
    routes, all_routes_valid = _valid_entries(Route, raw.get("routes", []))
    written = raw.get("peers", [])
    entries = written if isinstance(written, list) else []
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return Parts(
        node=_valid(NodeSettings, raw.get("node", {})),
        tls=_valid(TlsSettings, raw.get("tls", {})),
        peers=peers,
        routes=routes,
        peer_names=frozenset(name for name in names if isinstance(name, str)),
        all_peers_valid=all_peers_valid,
        all_routes_valid=all_routes_valid,
        all_names_known=isinstance(written, list)
        and all(isinstance(name, str) and _NAME.fullmatch(name) for name in names),
    )


def _valid_entries(model: type[ModelT], raw: object) -> tuple[dict[int, ModelT], bool]:
    entries = raw if isinstance(raw, list) else []
    found = {index: _valid(model, entry) for index, entry in enumerate(entries)}
    valid = {index: entry for index, entry in found.items() if entry is not None}
    return valid, isinstance(raw, list) and len(valid) == len(entries)


def _valid(model: type[ModelT], raw: object) -> ModelT | None:
    try:
        valid = model.model_validate(raw)
    except ValidationError:
        return None
    return None if any(wrong_kinds(model, raw)) else valid


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    """Resolve the paths of the file against its folder, so that the working directory of a process never matters."""
    node = settings.node.model_copy(update={"data_dir": base / settings.node.data_dir.expanduser()})
    tls = settings.tls.model_copy(
        update={name: absolute(getattr(settings.tls, name), base) for name in ("certificate", "key", "ca")}
    )
    peers = tuple(_at(peer, base) for peer in settings.peers)
    update: dict[str, object] = {"node": node, "tls": tls, "peers": peers}
    bundle = settings.model.bundle
    if "/" in bundle or bundle.startswith("~"):
        update["model"] = settings.model.model_copy(update={"bundle": str(base / Path(bundle).expanduser())})
    if settings.audit.file is not None:
        file = base / settings.audit.file.expanduser()
        update["audit"] = settings.audit.model_copy(update={"file": file})
    resolved = settings.model_copy(update=update)
    resolved.hand_out()
    return resolved


def _at(peer: Peer, base: Path) -> Peer:
    """Resolve the files that a peer names."""
    names = [key for key in Peer.model_fields if key == "tls_ca" or key.endswith("_file")]
    return peer.model_copy(update={key: absolute(getattr(peer, key), base) for key in names})
