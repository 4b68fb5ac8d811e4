"""From plain TOML values to dataclasses: types, ranges and names are checked, and the faults collected on the way."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from train.recipe.faults import Fault, unknown_word
from train.recipe.tables import CENTRE_NAMES


def join(prefix: str, key: str) -> str:
    """Dotted key below ``prefix``."""
    return f"{prefix}.{key}" if prefix else key


class TableReader:
    """Builds dataclasses from mappings by their type hints; `faults` holds what did not fit.

    Parameters
    ----------
    file : str
        Name printed in faults.
    lines : Mapping[str, int]
        Line of each dotted key.
    """

    def __init__(self, file: str, lines: Mapping[str, int]) -> None:
        self.file = file
        self.lines = lines
        self.faults: list[Fault] = []

    def fault(self, key: str, reason: str) -> None:
        """Note a fault at ``key``, or at the table it is missing from."""
        where = key
        while where and where not in self.lines:
            where = where.rpartition("[" if where.endswith("]") else ".")[0]
        self.faults.append(Fault(self.file, self.lines.get(where, 1), key or "(file)", reason))

    def table(self, cls: type, values: object, prefix: str) -> Any:  # noqa: ANN401  (a dataclass of type cls, or None)
        """Build ``cls``, or note why not and return None."""
        if not isinstance(values, Mapping):
            self.fault(prefix, "must be a table")
            return None
        hints = get_type_hints(cls)
        fields = {item.name: item for item in dataclasses.fields(cls)}
        before = len(self.faults)
        for key in values:
            if key not in fields:
                self.fault(join(prefix, key), f"unknown key; {unknown_word(key, fields)}")
        found: dict[str, Any] = {}
        for name, item in fields.items():
            key = join(prefix, name)
            if name in values:
                found[name] = self._value(hints[name], values[name], key, item.metadata)
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                self.fault(key, "is missing")
        return None if len(self.faults) > before else cls(**found)

    def _value(self, kind: Any, value: object, key: str, limits: Mapping[str, Any]) -> object:  # noqa: ANN401
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            if value is None:
                return None
            kind = next(arg for arg in get_args(kind) if arg is not type(None))
            origin = get_origin(kind)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self.table(kind, value, key)
        if origin is tuple:
            return self._items(get_args(kind), value, key)
        if origin is Literal:
            return self._choice(get_args(kind), value, key)
        if origin is not None and issubclass(origin, Mapping):
            return self._counts(value, key) if get_args(kind)[1] is int else self._plain_table(value, key)
        return self._scalar(kind, value, key, limits)

    def _items(self, kinds: tuple[Any, ...], value: object, key: str) -> tuple[object, ...]:
        of_tables = dataclasses.is_dataclass(kinds[0])
        if not isinstance(value, list | tuple) or (of_tables and not value):
            self.fault(key, f"must be one or more [[{key}]] tables" if of_tables else "must be a list")
            return ()
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(value) != len(kinds):
            self.fault(key, f"must have {len(kinds)} values, not {len(value)}")
            return ()
        return tuple(
            self._value(kind, item, f"{key}[{index}]", {})
            for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )

    def _choice(self, choices: tuple[object, ...], value: object, key: str) -> object:
        if value not in choices or isinstance(value, bool):
            self.fault(key, f"must be one of {', '.join(map(str, choices))}")
        return value

    def _counts(self, value: object, key: str) -> dict[str, int]:
        if not isinstance(value, Mapping):
            self.fault(key, "must be a table of centre = number of volumes")
            return {}
        for centre, count in value.items():
            if centre not in CENTRE_NAMES:
                self.fault(key, f"unknown centre {centre}; known: {', '.join(CENTRE_NAMES)}")
            elif isinstance(count, bool) or not isinstance(count, int) or count < 0:
                self.fault(key, f"number of volumes of centre {centre} must be a whole number >= 0")
        return dict(value)

    def _plain_table(self, value: object, key: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.fault(key, "must be a table")
            return {}
        return dict(value)

    def _scalar(self, kind: Any, value: object, key: str, limits: Mapping[str, Any]) -> object:  # noqa: ANN401
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fault(key, f"must be of type {kind.__name__}")
        elif isinstance(value, int | float):
            self._check_range(value, key, limits)
        elif value == "":
            self.fault(key, "must not be empty")
        return value

    def _check_range(self, value: float, key: str, limits: Mapping[str, Any]) -> None:
        low, high = limits.get("low"), limits.get("high")
        if math.isnan(value) or (math.isinf(value) and not limits.get("infinite")):
            self.fault(key, "must be a finite number")
        elif low is not None and value < low:
            self.fault(key, f"must be at least {low:g}")
        elif high is not None and value > high:
            self.fault(key, f"must be at most {high:g}")
