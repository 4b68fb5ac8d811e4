"""What pydantic found wrong with a settings file, in the words of TOML and with the key that was probably meant."""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dicom_node.settings.model import Settings
from dicom_node.settings.positions import KeyPath
from dicom_node.settings.spelling import suggestion

_QUOTED: Final = re.compile(r"'([^']*)'")

#: Kinds of values in the words of TOML, by pydantic's type of error.
_KINDS: Final = {
    "string_type": "should be a valid string, in quotes",
    "bool_type": "should be a valid boolean: true or false",
    "tuple_type": "should be a valid array: [...]",
    "path_type": "should be a valid path: a string in quotes",
    "int_from_float": "should be a valid integer, without a fraction",
    "finite_number": "should be a finite number",
}


def explain(details: Sequence[ErrorDetails], known: Collection[KeyPath] = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield key path and reason of every fault, each mistake once.

    Parameters
    ----------
    details : sequence of ErrorDetails
        `pydantic.ValidationError.errors` of the whole settings.
    known : collection of KeyPath
        Where there are faults already; what follows from them is not told.
    """
    paths = [*(detail["loc"] for detail in details), *known]
    misspelt = {
        (*detail["loc"][:-1], near)
        for detail in details
        if detail["type"] == "extra_forbidden" and (near := _near_key(detail["loc"]))
    }
    for detail in details:
        path = detail["loc"]
        follows_from_another = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
        written_wrong = detail["type"] == "missing" and path in misspelt
        # Without a location it is the rule between sections, which cross_faults reports with its place.
        if path and path not in known and not follows_from_another and not written_wrong:
            yield _explained(detail)


def _explained(detail: ErrorDetails) -> tuple[KeyPath, str]:
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
            return path, f"must be {expected}{suggestion(str(detail['input']), _QUOTED.findall(expected))}"
        case kind:
            return path, _of_kind(kind, path, detail["msg"])


def _of_kind(kind: str, path: KeyPath, message: str) -> str:
    header = f"[[{path[0]}]]" if _is_array(str(path[0])) else f"[{path[0]}]"
    if kind == "tuple_type" and len(path) == 1:
        return f"should be an array of tables: write {header} above each entry"
    if kind.startswith("model_") or kind == "dict_type":
        return f"should be a table: write {header} above its keys"
    words = _KINDS.get(kind) or message.removeprefix("Input ")
    return words[:1].lower() + words[1:]


def _near_key(path: KeyPath) -> str:
    """Key of the same table that a misspelt one was meant to be; empty when none is near."""
    [*found] = _QUOTED.findall(suggestion(str(path[-1]), _fields_at(path[:-1])))
    return str(found[0]) if found else ""


def _known_key(path: KeyPath) -> str:
    """Suggest a key of the same table, or tell which table has that very key."""
    word = str(path[-1])
    near = suggestion(word, _fields_at(path[:-1]))
    if near:
        return near
    homes = [name for name in Settings.model_fields if word in _fields_at((name, 0) if _is_array(name) else (name,))]
    if not homes:
        return ""
    return f"; it belongs to [[{homes[0]}]]" if _is_array(homes[0]) else f"; it belongs to [{homes[0]}]"


def _is_array(section: str) -> bool:
    field = Settings.model_fields.get(section)
    return field is not None and get_origin(field.annotation) is tuple


def _fields_at(path: KeyPath) -> list[str]:
    """Names of the keys of the table at a path; none where no table is."""
    model: type[BaseModel] | None = Settings
    for part in path:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = _model_in(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    """Return the table that a field is, or of which it holds an array."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
    return None
