"""Model bundles: a folder with ``model.safetensors`` and its card ``bundle.json``.

The weights are stored in half precision, and the stored values *are* the model: hash and self-test refer
to them, computation is in single precision. No pickle is ever read. Importing this module loads no torch.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from jmmda_model.card import SCHEMA_VERSION, BundleCard, BundleError
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.network.settings import GeneratorSettings, Size

if TYPE_CHECKING:
    import torch

    from jmmda_model.network.generator import Generator

__all__ = [
    "BUILTIN",
    "SCHEMA_VERSION",
    "UNTRAINED_TINY",
    "Bundle",
    "BundleCard",
    "BundleError",
    "Check",
    "Verification",
    "load_bundle",
    "load_generator",
    "make_untrained_bundle",
    "save_bundle",
    "verify_bundle",
]

WEIGHTS_FILE: Final = "model.safetensors"
CARD_FILE: Final = "bundle.json"
BUILTIN: Final = "builtin"
"""Name of the bundle that ships with the package."""
UNTRAINED_TINY: Final = "untrained-tiny"
"""Name of a real, tiny network with seeded weights, for tests of the pipeline."""

_BUILTIN_FOLDER = "jmmda-phantom"
_MAX_CARD_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 24
_UNTRAINED_SEED = 20251112
# A constant, so that two processes that make the bundle at once write the same bytes.
_UNTRAINED_CREATED = "2025-11-12T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose card was read and whose weights file has the hash the card states.

    Attributes
    ----------
    path
        Folder.
    card
        Its card.
    """

    path: Path
    card: BundleCard

    @property
    def is_phantom(self) -> bool:
        """Whether the weights were trained on the digital phantom."""
        return self.card.is_phantom

    @property
    def sha256(self) -> str:
        """Identity of the bundle: SHA-256 of the canonical card, which holds the hash of the weights."""
        return self.card.digest()

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.path / WEIGHTS_FILE


def load_bundle(path_or_name: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle, without loading its weights into memory.

    Parameters
    ----------
    path_or_name
        A folder, ``builtin`` for the bundle that ships, or ``untrained-tiny`` (made on first use in the
        user's cache folder).

    Raises
    ------
    BundleError
        ``missing`` (no such folder or file), ``schema``, ``contract`` (version not known here), ``card``,
        ``pickle`` (the weights are not a safetensors file) or ``hash``.
    """
    if path_or_name == BUILTIN:
        return _read(_builtin_path())
    if path_or_name == UNTRAINED_TINY:
        return _cached_untrained()
    return _read(Path(path_or_name))


def load_generator(bundle: Bundle) -> Generator:
    """Build the network of a bundle in single precision on the CPU, ready for inference.

    Raises
    ------
    BundleError
        ``weights`` if the file does not fit the network or holds values that are not finite; ``hash`` if
        it changed since the bundle was read.
    """
    data = bundle.weights_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != bundle.card.sha256:
        raise BundleError("hash", f"{WEIGHTS_FILE} changed while it was read")
    from jmmda_model.weights import unpack

    return unpack(data, bundle.card.generator)


def save_bundle(folder: str | os.PathLike[str], state_dict: Mapping[str, torch.Tensor], card: BundleCard) -> Bundle:
    """Write a bundle: weights in half precision, then the card with their hash and self-test.

    Both files are written beside their place and renamed, weights first. A crash in between leaves the
    old bundle, or one that is refused because of its hash.

    Parameters
    ----------
    folder
        Made if absent; a bundle in it is replaced.
    state_dict
        Weights of a generator built from ``card.generator``, any floating type.
    card
        Its ``sha256`` and ``self_test`` are filled in here.

    Raises
    ------
    BundleError
        ``weights`` if a value is not finite in half precision or the weights do not fit the network;
        ``write`` if the folder cannot be written; ``card`` if a value of the card is no JSON value.
    """
    from jmmda_model.weights import answer_probe, pack, unpack

    folder = Path(folder)
    data = pack(state_dict)
    record = answer_probe(unpack(data, card.generator))
    card = replace(card, sha256=hashlib.sha256(data).hexdigest(), self_test=record)
    text = _card_text(card)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(folder / WEIGHTS_FILE, data)
        _write_atomically(folder / CARD_FILE, text.encode("utf-8"))
    except OSError as error:
        raise BundleError("write", f"{folder} cannot be written: {error.strerror}") from error
    return _read(folder)


def make_untrained_bundle(
    folder: str | os.PathLike[str], size: Size = "tiny", contract: PreprocessingContract | None = None
) -> Bundle:
    """Write a bundle with seeded, untrained weights, for tests of everything around the network.

    Parameters
    ----------
    folder
        Where to write.
    size
        Network width.
    contract
        Preprocessing contract; the default one unless given.

    Raises
    ------
    BundleError
        ``write`` if the folder cannot be written; ``card`` if the contract does not fit.
    """
    import torch

    from jmmda_model.network.generator import build_generator

    contract = contract or PreprocessingContract()
    settings = GeneratorSettings.for_size(
        size,
        in_channels=contract.ct_channel_count,
        mask_channels=len(contract.mask_channels),
        mask_output=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_UNTRAINED_SEED)
        state = build_generator(settings).state_dict()
    card = BundleCard(
        name=f"untrained-{size}",
        generator=settings,
        contract=contract,
        training_data="none",
        trained=False,
        description="Seeded random weights. The output is meaningless; for tests of the pipeline only.",
        licence="MIT",
        created=_UNTRAINED_CREATED,
    )
    return save_bundle(folder, state, card)


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a bundle: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of :func:`verify_bundle`; checks after a failed one are not run."""

    bundle: Bundle | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify_bundle(path_or_name: str | os.PathLike[str]) -> Verification:
    """Check card, contract, hash, weights and the answer to the probe; never raises for a bad bundle.

    Parameters
    ----------
    path_or_name
        As for :func:`load_bundle`.
    """
    try:
        bundle = load_bundle(path_or_name)
    except BundleError as error:
        return Verification(None, (Check(error.code, passed=False, detail=error.reason),))
    checks = [
        Check(
            "card", passed=True, detail=f"{bundle.card.name}, {bundle.card.size}, layout {bundle.card.schema_version}"
        ),
        Check("contract", passed=True, detail=f"version {bundle.card.contract.version}"),
        Check("hash", passed=True, detail=bundle.card.sha256),
    ]
    from jmmda_model.weights import answer_probe

    try:
        generator = load_generator(bundle)
    except BundleError as error:
        return Verification(bundle, (*checks, Check(error.code, passed=False, detail=error.reason)))
    count = sum(parameter.numel() for parameter in generator.parameters())
    checks.append(Check("weights", passed=True, detail=f"{count} finite parameters"))
    recorded = bundle.card.self_test
    if recorded is None:
        checks.append(Check("self_test", passed=False, detail="the card has no self-test record"))
    else:
        deviation = recorded.deviation(answer_probe(generator))
        detail = f"deviation {deviation:.2g}, tolerance {recorded.tolerance:.2g}"
        checks.append(Check("self_test", passed=deviation <= recorded.tolerance, detail=detail))
    return Verification(bundle, tuple(checks))


def _card_text(card: BundleCard) -> str:
    try:
        return json.dumps(card.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BundleError("card", f"the card holds a value that JSON has not: {error}") from error


def _write_atomically(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; a bundle is read by the service's account.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _builtin_path() -> Path:
    entry = importlib.resources.files("jmmda_model") / "bundles" / _BUILTIN_FOLDER
    if isinstance(entry, Path) and (entry / CARD_FILE).is_file():
        return entry
    raise BundleError(
        "missing",
        "this installation has no built-in bundle: install the wheel, or train one (jmmda-node train fit, then "
        "train export) and name its folder under model.bundle",
    )


def _cached_untrained() -> Bundle:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "jmmda-node" / "bundles" / UNTRAINED_TINY
    try:
        return _read(folder)
    except BundleError:
        return make_untrained_bundle(folder, "tiny")


def _read(folder: Path) -> Bundle:
    if folder.is_file():
        raise BundleError(
            "pickle",
            f"{folder.name} is a file; a bundle is a folder with {WEIGHTS_FILE} and {CARD_FILE}, never a pickle",
        )
    card_path, weights_path = folder / CARD_FILE, folder / WEIGHTS_FILE
    for path in (card_path, weights_path):
        if not path.is_file():
            raise BundleError("missing", f"{folder} has no {path.name}")
    try:
        card = BundleCard.from_json(_parse_card(card_path))
        _check_format(weights_path)
        with weights_path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError("missing", f"{folder} cannot be read: {error.strerror}") from error
    if digest != card.sha256:
        raise BundleError("hash", f"{WEIGHTS_FILE} has SHA-256 {digest}, the card states {card.sha256 or 'none'}")
    return Bundle(folder, card)


def _parse_card(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CARD_BYTES:
        raise BundleError("card", f"{CARD_FILE} is larger than {_MAX_CARD_BYTES} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError("card", f"{CARD_FILE} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise BundleError("card", f"{CARD_FILE} does not hold an object")
    return values


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not allowed")


def _check_format(path: Path) -> None:
    """Refuse anything but safetensors: 8 bytes of header length, then a JSON object."""
    with path.open("rb") as stream:
        start = stream.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or not 2 <= length <= _MAX_HEADER_BYTES:
        raise BundleError(
            "pickle", f"{WEIGHTS_FILE} is not a safetensors file; other formats can run code and are refused"
        )
