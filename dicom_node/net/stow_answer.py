"""What a STOW-RS answer says of an instance: the Store Instances Response Module (PS3.18 section 10.5.3, table I.1-1).

The answer is DICOM JSON (PS3.18 annex F) or Native DICOM XML (PS3.19 annex A.1), by anybody, so every step may find
nonsense: what does not parse names no instance, and an instance that is not named is not taken for stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from dicom_node.net.scu import StoreResult
from dicom_node.net.status import StoreCategory, categorise, meaning

_FAILED: Final = "00081198"
_STORED: Final = "00081199"
_INSTANCE: Final = "00081155"
_FAILURE_REASON: Final = "00081197"
_WARNING_REASON: Final = "00081196"

#: Status of an instance that is referenced without a warning.
_SUCCESS: Final = 0x0000

#: What an HTTP status means for the instance under way, where the answer does not name it.
_REFUSED: Final[Mapping[int, str]] = {
    400: "the service does not understand the request",
    409: "the service cannot store it",
    413: "it is larger than the service takes",
    415: "the service does not take its transfer syntax or the media type",
    422: "the service cannot process it",
}


@dataclass(frozen=True, slots=True)
class Named:
    """One instance that an answer names: stored or failed, and the reason or warning that stands with it."""

    stored: bool
    reason: int | None


def read_answer(body: bytes) -> dict[str, Named]:
    """Return every instance that an answer names, by SOP Instance UID; a failure outweighs a success.

    Parameters
    ----------
    body : bytes
        JSON or XML; anything else names nothing.
    """
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        items = list(_xml_items(text) if text[:1] == b"<" else _json_items(text))
    except (ValueError, RecursionError, ElementTree.ParseError):
        return {}
    found: dict[str, Named] = {}
    for sequence, item in items:
        stored = sequence == _STORED
        uid = item.get(_INSTANCE)
        reason = _number(item.get(_WARNING_REASON if stored else _FAILURE_REASON))
        if isinstance(uid, str) and not (stored and uid in found):
            found[uid.strip("\0 ")] = Named(stored, reason)
    return found


def judge(http_status: int, answer: Mapping[str, Named], sop_instance_uid: str) -> StoreResult:
    """Say what became of an instance.

    Parameters
    ----------
    http_status : int
        Of the answer.
    answer : Mapping
        See `read_answer`.
    sop_instance_uid : str
        Which instance.

    Returns
    -------
    StoreResult
        `status` is that of PS3.4 table B.2-1 where the answer gives one. An instance counts as stored only when an
        answer of success names it.
    """
    named = answer.get(sop_instance_uid)
    well = 200 <= http_status < 300
    status: int | None = None
    if named is not None and not named.stored:
        status = named.reason
        category, comment = _failed(http_status, named.reason)
    elif named is not None and well:
        status = named.reason or _SUCCESS
        # What is referenced is stored, whatever stands beside it as a warning.
        category = StoreCategory.SUCCESS if status == _SUCCESS else StoreCategory.WARNING
        comment = meaning(status) if categorise(status).is_stored else f"stored with the warning 0x{status:04X}"
    elif http_status in _REFUSED:
        category, comment = StoreCategory.PERMANENT, _REFUSED[http_status]
    elif well:
        category = StoreCategory.TRANSIENT
        comment = "the answer does not name the instance as stored; is this the address of a STOW-RS service?"
    else:
        category, comment = StoreCategory.TRANSIENT, "the service failed"
    return StoreResult(sop_instance_uid, status, category, f"HTTP {http_status}: {comment}")


def _failed(http_status: int, reason: int | None) -> tuple[StoreCategory, str]:
    if reason is None:
        passing = http_status >= 500
        return (StoreCategory.TRANSIENT if passing else StoreCategory.PERMANENT), "failed without a reason"
    category = categorise(reason)
    if category is StoreCategory.SUCCESS:
        return StoreCategory.PERMANENT, "failed, with a reason that means success"
    return category, meaning(reason)


def _json_items(text: bytes) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the items of both sequences of a DICOM JSON object, or of a list of such objects."""
    document = json.loads(text)
    for entry in document if isinstance(document, list) else [document]:
        for sequence in (_FAILED, _STORED):
            for item in _values(entry, sequence):
                if isinstance(item, dict):
                    yield sequence, {tag: next(iter(_values(item, tag)), None) for tag in item}


def _values(entry: object, tag: str) -> list[Any]:
    attribute = entry.get(tag) if isinstance(entry, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _xml_items(text: bytes) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the items of both sequences of a Native DICOM Model; a document that defines entities is refused."""
    if b"<!" in text.replace(b"<!--", b""):
        raise ValueError("a document type or an entity has no place here")
    root = ElementTree.fromstring(text)  # noqa: S314 - without document type there is nothing to expand
    found = [(_attribute(node), node) for node in root]
    for sequence in (_FAILED, _STORED):
        for tag, node in found:
            for item in node if tag == sequence else ():
                yield sequence, {_attribute(one): "".join(value.text or "" for value in one) for one in item}


def _attribute(node: ElementTree.Element) -> str:
    return node.get("tag", "").upper()


def _number(value: object) -> int | None:
    """Read an unsigned 16-bit number; JSON may write it as text."""
    try:
        number = int(value) if isinstance(value, str | int) else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number <= 0xFFFF else None
