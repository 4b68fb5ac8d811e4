"""Numbers and truth values of a settings file are taken as written: a number in quotes is no number.

pydantic's strict mode would say the same, but no longer takes an array for a tuple or a word for one of several, which
is all that TOML can write.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from dicom_node.settings.positions import KeyPath

_WORDS: Final = {int: "a valid integer", float: "a valid number", bool: "a valid boolean: true or false"}


def wrong_kinds(model: type[BaseModel], raw: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield key path and reason of every value that is no number, or no truth value, where one has to stand.

    Parameters
    ----------
    model : type of BaseModel
        The table that `raw` should be.
    raw : object
        As `tomllib` read it.
    path : KeyPath
        Where it stands.
    """
    if not isinstance(raw, Mapping):
        return
    for key, field in model.model_fields.items():
        if key in raw:
            yield from _wrong_in(field.annotation, raw[key], (*path, key))


def _wrong_in(annotation: Any, value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:  # noqa: ANN401 - any annotation
    options = list(_options(annotation))
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            yield from wrong_kinds(option, value, path)
        elif get_origin(option) is tuple and isinstance(value, list):
            for index, element in enumerate(value):
                yield from _wrong_in(get_args(option)[0], element, (*path, index))
    wanted = [option for option in options if option in _WORDS]
    if wanted and len(wanted) == len(options) and not any(_is(value, kind) for kind in wanted):
        yield path, f"should be {' or '.join(_WORDS[kind] for kind in wanted)}"


def _options(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - any annotation
    """What a field may be, without None, which TOML does not have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _options(part)
    elif annotation is not type(None):
        yield annotation


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int) or (kind is float and isinstance(value, float))
