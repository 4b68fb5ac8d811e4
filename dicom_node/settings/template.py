"""The annotated ``config/node.toml``, written from the descriptions of the settings models.

`render` is the only source of that file; a test compares the two. `template_text` is what ``config init`` hands out:
the file inside the installed ``config`` package.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicom_node.settings.model import Settings
from dicom_node.settings.peers import Peer
from dicom_node.settings.sections import Route

TEMPLATE_NAME: Final = "node.toml"

_WIDTH = 110
_CODE_POINTER = re.compile(r" \(`[^`]+`\)")
_HEAD = """\
# jmmda-node: settings of one node.
#
# Every key is written with its default; delete a line to keep the default for good. After a change:
#     jmmda-node config check FILE
# names every fault with file, line, key and reason. Unknown keys are faults. Passwords and keys never stand here.
#     jmmda-node config reload FILE
# has the running node take it; docs/configuration.md says what needs a restart. An editor that knows JSON schemas
# (taplo, Even Better TOML) completes and checks the keys after
#     jmmda-node config schema --out node.schema.json
# beside this file, with "#:schema ./node.schema.json" (without the quotes) as its first line.
"""
_HEAD_OF_EXAMPLES = """\
# The peers and routes below are examples: put your own in their place.
"""

_EXAMPLE_PEERS: Final = (
    {
        "name": "pacs",
        "ae_titles": ("PACS", "PACS_STORE"),
        "host": "192.0.2.10",
        "port": 104,
        "roles": ("source", "destination", "query"),
    },
    {"name": "ct1", "ae_titles": ("CT1",), "host": "192.0.2.20", "roles": ("source",)},
)
_EXAMPLE_ROUTES: Final = (
    {"from_ae": "PACS", "destinations": ("pacs",)},
    {"from_ae": "PACS_STORE", "destinations": ("pacs",)},
    {"from_ae": "CT1", "destinations": ("pacs",)},
)


def render(settings: Settings | None = None) -> str:
    """Write settings as annotated TOML: every section, key, description and value.

    Parameters
    ----------
    settings : Settings, optional
        What to write. Without it the text is that of ``config/node.toml``: all defaults, and example peers and routes.
    """
    if settings is None:
        return example_text()
    return _annotated(settings, _HEAD)


def example_text(**sections: Mapping[str, object]) -> str:
    """Write all defaults with example peers and routes, as annotated TOML.

    Parameters
    ----------
    **sections : mapping
        Values that take the place of defaults, section by section: ``output={"object": "sc"}``.
    """
    shown = Settings.model_validate({"peers": _EXAMPLE_PEERS, "routes": _EXAMPLE_ROUTES, **sections})
    return _annotated(shown, _HEAD + _HEAD_OF_EXAMPLES)


def _annotated(shown: Settings, head: str) -> str:
    blocks = [head]
    for name in Settings.model_fields:
        section = getattr(shown, name)
        if name == "peers":
            blocks += _tables(name, Peer, section)
        elif name == "routes":
            blocks += _tables(name, Route, section)
        else:
            blocks.append("\n".join([*_comment(_first_line(type(section))), f"[{name}]", *_values(section)]) + "\n")
    return "\n".join(blocks)


def plain(settings: Settings) -> str:
    """Write settings as bare TOML without comments; reading it back gives equal settings."""
    lines = (line for line in render(settings).splitlines() if not line.startswith("#"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def template_text() -> str:
    """Return the annotated file as it ships in the ``config`` package."""
    return importlib.resources.files("config").joinpath(TEMPLATE_NAME).read_text("utf-8")


def _first_line(model: type[BaseModel]) -> str:
    """First paragraph of the model's description, without its pointers into the code."""
    return _CODE_POINTER.sub("", (model.__doc__ or "").strip().split("\n\n")[0])


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _values(section: BaseModel) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        yield from _comment(field.description or "")
        value = getattr(section, key)
        yield f"# {key} =" if value is None else f"{key} = {_toml(value)}"


def _tables(name: str, model: type[BaseModel], entries: Sequence[BaseModel]) -> Iterator[str]:
    lines = _comment(_first_line(model))
    lines += [line for key, field in model.model_fields.items() for line in _comment(f"{key}: {_explained(field)}")]
    for entry in entries:
        written = entry.model_dump(exclude_defaults=True)
        lines += [f"[[{name}]]", *(f"{key} = {_toml(value)}" for key, value in written.items()), ""]
    yield "\n".join(lines if entries else [*lines, ""])


def _explained(field: FieldInfo) -> str:
    if field.is_required() or field.default is None:
        return field.description or ""
    return f"{field.description} (default {_toml(field.default)})"


def _toml(value: object) -> str:
    """Write a value as TOML; JSON's notation of strings, numbers and booleans is valid TOML."""
    match value:
        case Path():
            return json.dumps(str(value))
        case tuple() | list():
            parts = [_toml(item) for item in value]
            line = f"[{', '.join(parts)}]"
            return line if len(line) < _WIDTH - 30 else "[\n" + "".join(f"    {part},\n" for part in parts) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)
