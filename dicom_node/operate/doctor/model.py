"""Checks of bundle and device. A child process is asked about the device: torch is never imported here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dicom_node.operate.doctor.findings import US, Finding, failed, passed, warned
from dicom_node.settings import Settings

_AT_WORK: Final = frozenset({"ready", "working"})


def model(
    settings: Settings, command: Sequence[str], time_limit_s: float, worker: Mapping[str, Any] | None
) -> list[Finding]:
    """Examine what makes the results.

    Parameters
    ----------
    settings : Settings
        Section ``[model]``.
    command : sequence of str
        Command line of a worker, which says ``ready`` or ``failed`` and ends when its input does.
    time_limit_s : float
        Longest wait for it.
    worker : Mapping or None
        What the running node's own worker says, if it works by the same section: then none is started, since a second
        one may not fit into memory.
    """
    return [*_bundle(settings), _device(command, time_limit_s, worker)]


def _bundle(settings: Settings) -> Iterator[Finding]:
    from jmmda_model.bundle import UNTRAINED_TINY, BundleError, load_bundle

    name = settings.model.bundle
    if name == UNTRAINED_TINY:  # made where it is first used, which takes torch
        yield passed("model.bundle", f"{name}, made when it is first used")
        yield _phantom(settings, "is untrained")
        return
    try:
        bundle = load_bundle(name)
    except BundleError as error:
        remedy = "name a whole bundle in [model] bundle; see: jmmda-node model verify"
        yield failed("model.bundle", f"{error.code}: {error.reason}", US, remedy)
        return
    yield passed("model.bundle", f"{bundle.card.name} ({bundle.card.size}), SHA-256 {bundle.sha256[:16]}...")
    if not bundle.card.trained:
        yield _phantom(settings, "is untrained")
    elif bundle.is_phantom:
        yield _phantom(settings, "was trained on a digital phantom")
    else:
        yield passed("model.phantom", f"trained on {bundle.card.training_data}")


def _phantom(settings: Settings, what: str) -> Finding:
    names = ", ".join(peer.name for peer in settings.destinations)
    if not names:
        return passed("model.phantom", f"the bundle {what}; there is no destination")
    if settings.model.allow_phantom_bundle:
        remedy = "for tests only; before patients: another bundle, and allow_phantom_bundle = false in [model]"
        return warned("model.phantom", f"the bundle {what}, and its results are sent to {names}", US, remedy)
    remedy = "name a bundle trained on patients in [model] bundle; for a test set allow_phantom_bundle = true"
    return failed("model.phantom", f"the bundle {what}, so that no result is sent to {names}", US, remedy)


def _device(command: Sequence[str], time_limit_s: float, worker: Mapping[str, Any] | None) -> Finding:
    remedy = "see device, precision and bundle in [model], and: jmmda-node model verify"
    if worker is not None and worker.get("state") in _AT_WORK and worker.get("device"):
        seen = f"the node's worker runs on {worker['device']} in {worker.get('precision')}"
        return passed("model.device", seen)
    if worker is not None and worker.get("reason"):
        return failed("model.device", f"the node's worker cannot start: {worker['reason']}", US, remedy)
    try:
        done = subprocess.run(  # noqa: S603 - our own module, no shell
            list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return failed("model.device", f"a worker was not ready within {time_limit_s:g} s", US, remedy)
    said = next((event for line in done.stdout.splitlines() if (event := _event(line))), {})
    if said.get("event") == "ready":
        seconds = said.get("self_test_seconds")
        return passed("model.device", f"{said.get('device')} in {said.get('precision')}, self-test in {seconds} s")
    if said.get("event") == "failed":
        return failed("model.device", f"{said.get('code')}: {said.get('reason')}", US, remedy)
    seen = f"a worker ended with {done.returncode} and said nothing"
    return failed("model.device", seen, US, "give it more memory; " + remedy)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("event") in ("ready", "failed") else None
