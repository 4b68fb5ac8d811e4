"""From a TOML file to `Settings`, or to a list of all its faults with their lines."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dicom_node.settings.checks import Parts, cross_faults
from dicom_node.settings.faults import Fault, SettingsError
from dicom_node.settings.model import Settings
from dicom_node.settings.positions import KeyPath, key_lines, line_of
from dicom_node.settings.sections import NodeSettings, Peer, Route
from dicom_node.settings.spelling import suggestion

_SYNTAX_POSITION = re.compile(r"\s*\(at line (\d+), column \d+\)|\s*\(at end of document\)")

_QUOTED = re.compile(r"'([^']*)'")

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
    try:
        Settings.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False)
        paths = [detail["loc"] for detail in details]
        for detail in details:
            path = detail["loc"]
            follows_from_another = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
            # Without a location it is the rule between sections, which cross_faults reports with its place.
            if path and not follows_from_another:
                yield _explain(detail)


def _explain(detail: ErrorDetails) -> tuple[KeyPath, str]:
    path: KeyPath = detail["loc"]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return path, f"unknown key{_known_key(path)}"
        case "missing":
            return path, "required, but missing"
        case "too_short":
            return path, "needs at least one entry"
        case "at_key":
            return (*path, context["key"]), str(context["reason"])
        case "value_error":
            return path, str(context["error"])
        case "enum" | "literal_error":
            expected = str(context["expected"])
            choices = _QUOTED.findall(expected)
            return path, f"must be {expected}{suggestion(str(detail['input']), choices)}"
        case _:
            message = detail["msg"].removeprefix("Input ")
            return path, message[:1].lower() + message[1:]


def _known_key(path: KeyPath) -> str:
    """Suggest a key of the same section, or tell which section has that very key."""
    word = str(path[-1])
    sections = {name: _fields_at((name,)) for name in Settings.model_fields}
    near = suggestion(word, sections if len(path) == 1 else _fields_at(path[:-1]))
    if near:
        return near
    homes = [name for name, fields in sections.items() if word in fields]
    return f"; it belongs to [{homes[0]}]" if homes else ""


def _fields_at(path: Sequence[str | int]) -> list[str]:
    """Names of the fields of the section at a path."""
    entries: dict[str, type[BaseModel]] = {"peers": Peer, "routes": Route}
    section = str(path[0])
    if section in entries:
        return list(entries[section].model_fields)
    field = Settings.model_fields.get(section)
    model = field.annotation if field else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _valid_parts(raw: Mapping[str, Any]) -> Parts:
    peers, all_peers_valid = _valid_entries(Peer, raw.get("peers", []))
    routes, all_routes_valid = _valid_entries(Route, raw.get("routes", []))
    names = {entry.get("name") for entry in raw.get("peers", []) if isinstance(entry, dict)}
    return Parts(
        node=_valid(NodeSettings, raw.get("node", {})),
        peers=peers,
        routes=routes,
        peer_names=frozenset(name for name in names if isinstance(name, str)),
        all_peers_valid=all_peers_valid,
        all_routes_valid=all_routes_valid,
    )


def _valid_entries(model: type[ModelT], raw: object) -> tuple[dict[int, ModelT], bool]:
    entries = raw if isinstance(raw, list) else []
    found = {index: _valid(model, entry) for index, entry in enumerate(entries)}
    valid = {index: entry for index, entry in found.items() if entry is not None}
    return valid, isinstance(raw, list) and len(valid) == len(entries)


def _valid(model: type[ModelT], raw: object) -> ModelT | None:
    try:
        return model.model_validate(raw)
    except ValidationError:
        return None


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    """Resolve the paths of the file against its folder, so that the working directory of a process never matters."""
    node = settings.node.model_copy(update={"data_dir": base / settings.node.data_dir.expanduser()})
    update: dict[str, object] = {"node": node}
    bundle = settings.model.bundle
    if "/" in bundle or bundle.startswith("~"):
        update["model"] = settings.model.model_copy(update={"bundle": str(base / Path(bundle).expanduser())})
    return settings.model_copy(update=update)
