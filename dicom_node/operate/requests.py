"""Requests of an administrator to the running service, which alone may write the ledger.

A command leaves a file in ``run/requests`` and pokes; the service does what it says and leaves the answer beside it.
Where no service runs, the command takes the spool lock and does it itself (`dicom_node.commands.journey`).
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import NodeError, Permanent, Refused, Transient
from dicom_node.ledger.durable import FOLDER_MODE, durable_write
from dicom_node.ledger.place import place_of
from dicom_node.ledger.poke import poke
from dicom_node.ledger.spool import SpoolPaths

logger = logging.getLogger(__name__)

_ANSWER: Final = ".answer.json"
_LOOK_EVERY_S: Final = 0.05
_CLASSES: Final[Mapping[str, type[NodeError]]] = {
    "Refused": Refused,
    "Permanent": Permanent,
    "Transient": Transient,
}

#: Does what a request asks and returns a JSON-serialisable answer.
Handler = Callable[[Mapping[str, Any]], object]


def _folder(paths: SpoolPaths) -> Path:
    return paths.run / "requests"


def ask(paths: SpoolPaths, request: Mapping[str, object], *, timeout_s: float = 30.0) -> Any:  # noqa: ANN401 - JSON
    """Have the running service do something and return its answer.

    Raises
    ------
    NodeError
        What the service answered, in its class.
    Transient
        ``no_answer`` when it did not answer in time; the request stays and will be done.
    """
    folder = _folder(paths)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    file = folder / f"{time.time_ns()}-{secrets.token_hex(4)}.json"
    answer_file = file.with_name(file.stem + _ANSWER)
    durable_write(file, json.dumps(request).encode())
    poke(paths.service_socket)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer_file.exists():
            answer = json.loads(answer_file.read_bytes())
            answer_file.unlink()
            if "error" in answer:
                kind = _CLASSES.get(answer["error"]["class"], Permanent)
                raise kind(answer["error"]["code"], answer["error"]["reason"], answer["error"]["figures"])
            return answer["done"]
        time.sleep(_LOOK_EVERY_S)
    raise Transient("no_answer", "the service did not answer in time; see: jmmda-node status")


def serve_requests(paths: SpoolPaths, handler: Handler) -> int:
    """Do every waiting request and leave its answer; return their number."""
    folder = _folder(paths)
    if not folder.is_dir():
        return 0
    files = sorted(file for file in folder.glob("*.json") if not file.name.endswith(_ANSWER))
    for file in files:
        durable_write(file.with_name(file.stem + _ANSWER), json.dumps(_answer(file, handler)).encode())
        file.unlink()
    return len(files)


def sweep_answers(paths: SpoolPaths, older_than_s: float = 3600.0) -> None:
    """Remove answers that nobody fetched."""
    folder = _folder(paths)
    if not folder.is_dir():
        return
    for file in folder.glob(f"*{_ANSWER}"):
        if time.time() - file.stat().st_mtime > older_than_s:
            file.unlink()


def _answer(file: Path, handler: Handler) -> dict[str, object]:
    try:
        return {"done": handler(json.loads(file.read_bytes()))}
    except NodeError as error:
        return _failure(type(error).__name__, error)
    except Exception as error:  # noqa: BLE001 - border: a request may not stop the service, and gets an answer
        logger.error("request failed: %s", place_of(error))
        return _failure("Permanent", Permanent("internal", f"the request failed: {place_of(error)}"))


def _failure(kind: str, error: NodeError) -> dict[str, object]:
    return {"error": {"class": kind, "code": error.code, "reason": error.reason, "figures": error.figures}}
