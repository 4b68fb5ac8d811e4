"""Where each key of a TOML text stands, so that a fault can name its line.

The standard library's `tomllib` parses TOML but forgets positions. This scanner walks a text that `tomllib` has already
accepted and records the line of every key and every array element; it therefore never has to judge the syntax.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

#: A key path as pydantic reports it: names of tables and keys, indices of array elements.
KeyPath = tuple[str | int, ...]

_BLANK = " \t"
_END_OF_SCALAR = ",]}\n#"
_TRIPLE_QUOTES = ('"""', "'''")


def key_lines(text: str) -> dict[KeyPath, int]:
    r"""Line numbers (from 1) of every key, table and array element of a valid TOML text.

    Parameters
    ----------
    text : str
        TOML that `tomllib.loads` accepts.

    Returns
    -------
    dict[KeyPath, int]
        For example ``{("peers", 0): 12, ("peers", 0, "port"): 15}``.

    Examples
    --------
    >>> key_lines('[node]\nport = 104\n')[("node", "port")]
    2
    """
    return _Scanner(text).scan()


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Line of a key, or of its nearest enclosing table when the key itself is not written; 0 when nothing is."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


class _Scanner:
    """One pass over the text; `_at` is the read position, `_table` the path of the table being filled."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._table: KeyPath = ()
        self._elements: dict[KeyPath, int] = {}  # elements seen so far of every array of tables
        self._lines: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        self._skip_space()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                self._header()
            else:
                self._pair(self._table)
            self._skip_space()
        return self._lines

    def _record(self, path: KeyPath) -> None:
        self._lines.setdefault(path, self._text.count("\n", 0, self._at) + 1)

    def _header(self) -> None:
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        names = self._dotted_key()
        path = (*self._resolve(names[:-1]), names[-1])
        if is_array:
            self._record(path)
            index = self._elements.get(path, -1) + 1
            self._elements[path] = index
            path = (*path, index)
        elif path in self._elements:
            path = (*path, self._elements[path])
        self._record(path)
        self._table = path
        self._at += 2 if is_array else 1

    def _resolve(self, names: list[str]) -> KeyPath:
        """Path of a parent table; a name that is an array of tables means its latest element."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            if path in self._elements:
                path = (*path, self._elements[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table
        start = self._at
        names = self._dotted_key()
        end, self._at = self._at, start
        for name in names:
            path = (*path, name)
            self._record(path)
        self._at = end + 1  # past "="
        self._skip_blank()
        self._value(path)

    def _dotted_key(self) -> list[str]:
        """Read ``a."b c".d`` up to the ``=`` or ``]`` behind it."""
        names = []
        while True:
            self._skip_blank()
            start = self._at
            if self._text[self._at] in "\"'":
                self._string()
                names.append(str(tomllib.loads(f"key = {self._text[start : self._at]}")["key"]))
            else:
                while self._text[self._at] not in " \t.=]":
                    self._at += 1
                names.append(self._text[start : self._at])
            self._skip_blank()
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _END_OF_SCALAR:
                self._at += 1

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        self._skip_space()
        while self._text[self._at] != "]":
            self._record((*path, index))
            self._value((*path, index))
            index += 1
            self._skip_space(separators=",")
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip_space()
        while self._text[self._at] != "}":
            self._pair(path)
            self._skip_space(separators=",")
        self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        if self._text[self._at : self._at + 3] in _TRIPLE_QUOTES:
            quote *= 3
        self._at += len(quote)
        while not self._text.startswith(quote, self._at):
            self._at += 2 if self._text[self._at] == "\\" and quote[0] == '"' else 1
        self._at += len(quote)
        while len(quote) == 3 and self._text[self._at : self._at + 1] == quote[0]:
            self._at += 1  # a multi-line string may end in one or two more quotes of its own

    def _skip_blank(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANK:
            self._at += 1

    def _skip_space(self, separators: str = "") -> None:
        """Skip blanks, line ends, comments and the given separators."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text[self._at] in _BLANK + "\n" + separators:
                self._at += 1
            else:
                return
