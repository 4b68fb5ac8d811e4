"""Settings of the two networks: plain frozen values that a bundle's card can carry. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

Size = Literal["paper", "base", "small", "compact", "tiny"]
Mgff = Literal["residual_gate", "concat", "spade", "none"]
MfabPaths = Literal["both", "low", "high"]
Afw = Literal["full", "mean", "concat", "channel_only", "spatial_only"]
Decoder = Literal["transposed", "resize", "idwt"]

SIZES: tuple[Size, ...] = get_args(Size)
"""Names of the known network widths, from the largest to the smallest."""

MAX_ATTENTION_WIDTH = 256
"""Upper bound of the width of the attention tokens in the low-frequency path."""


class SettingsValueError(ValueError):
    """A network setting has a value that no network can be built from."""


@dataclass(frozen=True, slots=True)
class _Width:
    ngf: int
    n_down: int
    n_blocks: int
    mask_output: bool


# `paper` keeps the widths of the pix2pixHD code; the smaller ones are ours: the data sets of this task
# are small, and three down-samplings cost the same multiply-adds with a quarter of the parameters.
_WIDTHS: dict[Size, _Width] = {
    "paper": _Width(ngf=64, n_down=4, n_blocks=9, mask_output=False),
    "base": _Width(ngf=64, n_down=3, n_blocks=9, mask_output=True),
    "small": _Width(ngf=32, n_down=3, n_blocks=9, mask_output=True),
    "compact": _Width(ngf=24, n_down=3, n_blocks=9, mask_output=True),
    "tiny": _Width(ngf=8, n_down=2, n_blocks=1, mask_output=True),
}


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def _check_known_fields(cls: type[GeneratorSettings | DiscriminatorSettings], values: dict[str, Any]) -> None:
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise SettingsValueError(f"{cls.__name__} has no field {', '.join(unknown)}")


def _check_complete(cls: type[GeneratorSettings | DiscriminatorSettings], values: dict[str, Any]) -> None:
    _check_known_fields(cls, values)
    if missing := sorted({field.name for field in fields(cls)} - set(values)):
        raise SettingsValueError(f"{cls.__name__} lacks the field {', '.join(missing)}")


def _check_types(instance: GeneratorSettings | DiscriminatorSettings) -> None:
    # A card comes from outside: JSON may hold "3" or 3.0 or true where an integer is meant.
    for field in fields(instance):
        value = getattr(instance, field.name)
        expected = {"int": int, "bool": bool}.get(str(field.type), str)
        if type(value) is not expected:
            raise SettingsValueError(f"{field.name} must be of type {expected.__name__}; got {value!r}")


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Everything that decides the shape of the generator.

    Parameters
    ----------
    size
        Name of the width preset the values were taken from; informative.
    in_channels
        CT channels: HU windows, neighbouring slices, mirrored slices; whatever the contract makes.
    mask_channels
        Mask channels. The first is the binary brain mask, which ``mask_output`` uses.
    ngf
        Channels of the first layer.
    n_down
        Down-sampling levels. Height and width of the input must be multiples of ``2**n_down``.
    n_blocks
        Residual blocks of the trunk.
    mgff
        Mask-guided feature fusion: ``residual_gate`` (ours), ``concat`` (the mask as input channels),
        ``spade`` (the mask modulates every decoder level) or ``none`` (mask not used as a feature).
    mfab
        Multi-frequency attention blocks in place of the plain strided convolutions.
    mfab_paths
        Which frequency paths an attention block has.
    wavelet
        Name of an orthogonal or biorthogonal wavelet, as PyWavelets spells it.
    heads
        Heads of the self-attention on low-frequency tokens.
    afw
        Adaptive fusion weighting: ``full``, or one of its ablations.
    hf_skip
        Pass high-frequency maps to the decoder stage of the same size (off in the paper preset).
    decoder
        ``transposed`` convolutions (pix2pixHD), ``resize`` (nearest-neighbour enlargement, then a
        convolution) or ``idwt`` (a convolution predicts four sub-bands, joined by the inverse transform
        of ``wavelet``).
    mask_output
        Set the output to -1 outside the brain mask.
    image_pyramid
        Add the sub-bands of the input CT to those of the features at every level (ours; needs ``mfab``).
    unet_skips
        Plain U-Net skips: concatenation with the encoder map of the same size and a 1x1 convolution
        (ours, a control; needs no other module).
    heteroscedastic
        A second output channel predicts the scale of the error (ours).

    Raises
    ------
    SettingsValueError
        For values from which no network can be built.
    """

    size: str = "compact"
    in_channels: int = 3
    mask_channels: int = 2
    ngf: int = 24
    n_down: int = 3
    n_blocks: int = 9
    mgff: Mgff = "residual_gate"
    mfab: bool = True
    mfab_paths: MfabPaths = "both"
    wavelet: str = "haar"
    heads: int = 4
    afw: Afw = "full"
    hf_skip: bool = False
    decoder: Decoder = "transposed"
    mask_output: bool = True
    image_pyramid: bool = False
    unet_skips: bool = False
    heteroscedastic: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        _check_choice("mgff", self.mgff, get_args(Mgff))
        _check_choice("mfab_paths", self.mfab_paths, get_args(MfabPaths))
        _check_choice("afw", self.afw, get_args(Afw))
        _check_choice("decoder", self.decoder, get_args(Decoder))
        for name in ("in_channels", "mask_channels", "ngf", "n_down", "n_blocks", "heads"):
            if getattr(self, name) < 1:
                raise SettingsValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.mfab and self.mfab_paths != "high":
            self._check_heads()
        if self.hf_skip and (not self.mfab or self.mfab_paths == "low"):
            raise SettingsValueError("hf_skip needs the high-frequency path of mfab")
        if self.image_pyramid and not self.mfab:
            raise SettingsValueError("image_pyramid needs mfab, whose sub-bands it adds to")

    def _check_heads(self) -> None:
        for level in range(self.n_down):
            width = min(2 * self.ngf * 2**level, MAX_ATTENTION_WIDTH)
            if width % self.heads:
                raise SettingsValueError(
                    f"heads={self.heads} does not divide the {width} attention channels of level {level + 1}"
                )

    @classmethod
    def for_size(cls, size: Size, **changes: Any) -> Self:  # noqa: ANN401 (values of several types)
        """Return the preset of a size, with changes.

        Parameters
        ----------
        size
            ``paper`` (ngf 64, 4 levels), ``base`` (64, 3), ``small`` (32, 3), ``compact`` (24, 3) or
            ``tiny`` (8, 2 levels, 1 block; for tests).
        **changes
            Fields that differ from the preset.

        Raises
        ------
        SettingsValueError
            If the size or a field is unknown, or a value is not possible.

        Examples
        --------
        >>> GeneratorSettings.for_size("tiny", heads=2).ngf
        8
        """
        _check_choice("size", size, SIZES)
        _check_known_fields(cls, changes)
        width = _WIDTHS[size]
        preset = cls(
            size=size,
            ngf=width.ngf,
            n_down=width.n_down,
            n_blocks=width.n_blocks,
            mask_output=width.mask_output,
        )
        return replace(preset, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary of JSON values, all fields written out."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read settings back.

        Raises
        ------
        SettingsValueError
            If a field is unknown or missing (ignored or filled in silently it would give another network
            than the one trained), or has an impossible value.
        """
        _check_complete(cls, values)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class DiscriminatorSettings:
    """Everything that decides the shape of the multi-scale PatchGAN discriminator.

    Parameters
    ----------
    in_channels
        Channels of the conditioned image: CT channels (and mask channels) plus one of DWI.
    ndf
        Channels of the first layer.
    n_layers
        Strided layers per scale.
    num_scales
        Number of discriminators, each on an image half the size of the one before.
    spectral_norm
        Spectral normalisation of all convolutions (ours; off in the paper preset).

    Raises
    ------
    SettingsValueError
        If a number is below 1.
    """

    in_channels: int
    ndf: int = 64
    n_layers: int = 3
    num_scales: int = 2
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("in_channels", "ndf", "n_layers", "num_scales"):
            if getattr(self, name) < 1:
                raise SettingsValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read settings back; an unknown or missing field raises :class:`SettingsValueError`."""
        _check_complete(cls, values)
        return cls(**values)
