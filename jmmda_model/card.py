"""The card of a model bundle: what the weights are, what they expect and what they were trained on.

Free of torch, so that a process that only reads cards stays light.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.network.settings import GeneratorSettings, SettingsValueError
from jmmda_model.probe import ProbeRecord

SCHEMA_VERSION = 1
"""Version of the card's layout; a bundle with another one is refused."""


class BundleError(ValueError):
    """A bundle cannot be used.

    Parameters
    ----------
    code
        ``missing``, ``card``, ``schema``, ``contract``, ``hash``, ``pickle``, ``weights`` or ``write``.
    reason
        One sentence for the administrator, saying what to do where that is known.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BundleCard:
    """The card (``bundle.json``).

    Attributes
    ----------
    name
        Name of the bundle, as labels show it.
    generator
        Shape of the network.
    contract
        Preprocessing the network was trained with.
    training_data
        The data in words. The word ``phantom`` marks a bundle that never saw a patient.
    trained
        False for seeded weights that only serve tests of the pipeline.
    output_affine
        Gain and offset, fitted on validation: output = clip(gain * y + offset, -1, 1) in the brain.
    flip_average
        Average with the prediction of the mirrored slice (doubles the time).
    description
        Free text.
    metrics
        Results on validation or test data, JSON values.
    licence
        Licence of the weights, SPDX where possible.
    created
        ISO 8601 time of export, with time zone.
    sha256
        SHA-256 of the weights file; empty until the bundle is saved.
    self_test
        What the stored network answers to the probe; None until the bundle is saved.
    schema_version
        Layout of the card.

    Raises
    ------
    BundleError
        ``card`` if network and contract do not fit each other or a value is not possible.
    """

    name: str
    generator: GeneratorSettings
    contract: PreprocessingContract
    training_data: str
    trained: bool
    output_affine: tuple[float, float] = (1.0, 0.0)
    flip_average: bool = False
    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    licence: str = ""
    created: str = ""
    sha256: str = ""
    self_test: ProbeRecord | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BundleError(
                "schema", f"card layout {self.schema_version!r} is not {SCHEMA_VERSION}, the one known here"
            )
        if not all(math.isfinite(value) for value in self.output_affine):
            raise BundleError("card", "output_affine must be two finite numbers, gain and offset")
        generator, contract = self.generator, self.contract
        if generator.in_channels != contract.ct_channel_count:
            raise BundleError(
                "card",
                f"the network takes {generator.in_channels} CT channels, the contract has {contract.ct_channel_count}",
            )
        if generator.mask_channels != len(contract.mask_channels) or contract.mask_channels[0] != "brain":
            raise BundleError("card", "the contract's mask channels do not fit the network (the first must be 'brain')")
        if contract.grid_px % 2**generator.n_down:
            raise BundleError("card", f"a grid of {contract.grid_px} px is no multiple of {2**generator.n_down}")

    @property
    def size(self) -> str:
        """Name of the network width (``compact``, ``tiny`` ...)."""
        return self.generator.size

    @property
    def is_phantom(self) -> bool:
        """Whether the weights were trained on the digital phantom."""
        return "phantom" in self.training_data.lower()

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return {
            "schema_version": self.schema_version,
            "name": self.name,
            "size": self.size,
            "generator": self.generator.to_json(),
            "contract": self.contract.to_json(),
            "training_data": self.training_data,
            "trained": self.trained,
            "output_affine": list(self.output_affine),
            "flip_average": self.flip_average,
            "description": self.description,
            "metrics": dict(self.metrics),
            "licence": self.licence,
            "created": self.created,
            "sha256": self.sha256,
            "self_test": self.self_test.to_json() if self.self_test is not None else None,
        }

    def digest(self) -> str:
        """Return the SHA-256 of the card in canonical form; it covers the weights through their hash."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read a card back. Every field must be there: a default filled in silently could be wrong.

        Raises
        ------
        BundleError
            ``schema`` for an unknown layout, ``contract`` for an unknown contract version, ``card`` for
            anything else that is missing, unknown or impossible.
        """
        if values.get("schema_version") != SCHEMA_VERSION:
            raise BundleError(
                "schema", f"card layout {values.get('schema_version')!r} is not {SCHEMA_VERSION}, the one known here"
            )
        names = {entry.name for entry in fields(cls)} | {"size"}
        if set(values) != names:
            raise BundleError("card", f"missing or unknown fields: {', '.join(sorted(names ^ set(values)))}")
        _check_types(values)
        try:
            generator = GeneratorSettings.from_json(values["generator"])
            self_test = values["self_test"]
            record = None if self_test is None else ProbeRecord.from_json(self_test)
            affine = tuple(float(value) for value in values["output_affine"])
        except (SettingsValueError, ValueError, TypeError) as error:
            raise BundleError("card", str(error)) from error
        try:
            contract = PreprocessingContract.from_json(values["contract"])
        except ImagingError as error:
            raise BundleError("contract", error.reason) from error
        if values["size"] != generator.size:
            raise BundleError("card", "size and generator.size differ")
        if len(affine) != 2:
            raise BundleError("card", "output_affine must be two finite numbers, gain and offset")
        return cls(
            **{name: values[name] for name in _PLAIN_TYPES},
            generator=generator,
            contract=contract,
            output_affine=(affine[0], affine[1]),
            metrics=MappingProxyType(dict(values["metrics"])),
            self_test=record,
        )


_PLAIN_TYPES: dict[str, type] = {
    "name": str,
    "training_data": str,
    "trained": bool,
    "flip_average": bool,
    "description": str,
    "licence": str,
    "created": str,
    "sha256": str,
    "schema_version": int,
}


def _check_types(values: Mapping[str, Any]) -> None:
    expected: dict[str, type] = {
        **_PLAIN_TYPES,
        "generator": dict,
        "contract": dict,
        "metrics": dict,
        "output_affine": list,
    }
    for name, kind in expected.items():
        if type(values[name]) is not kind:
            raise BundleError("card", f"{name} must be of type {kind.__name__}")
