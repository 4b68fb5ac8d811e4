"""The JSON schema of node.toml, by which editors complete and check the file.

It says less than `load_settings`: rules between keys, AE titles and host names are judged there alone.
"""

from __future__ import annotations

import re
from typing import Any, Final

from dicom_node.settings.model import Settings

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_CODE_POINTER: Final = re.compile(r" \(`[^`]+`\)")


def json_schema() -> dict[str, Any]:
    """Return the schema: every section and key with description, default and limits; unknown keys are errors."""
    schema = Settings.model_json_schema()
    schema["description"] = "Settings of one node. Every section may be left out."
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = _first_paragraph(definition["description"])
    for entry in schema["properties"].values():
        name = str(entry.get("$ref") or entry.get("items", {}).get("$ref")).rpartition("/")[2]
        entry.setdefault("description", schema["$defs"][name]["description"])
    return {"$schema": _DIALECT, **schema}


def _first_paragraph(text: str) -> str:
    return _CODE_POINTER.sub("", " ".join(text.split("\n\n")[0].split()))
