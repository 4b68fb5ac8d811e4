"""The tables of a training recipe as frozen dataclasses: every option, its default and its range.

Names of options that come from section 4 of the reconstruction keep its words. Only the standard library is used, so
that recipes load where only torch, NumPy and SciPy exist.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: The method of this project; every other one is a comparison method.
JMMDA = "jmmda"
#: Centres of the phantom that a recipe may name.
CENTRE_NAMES = ("A", "B", "C")


def _range(low: float | None = None, high: float | None = None, **more: object) -> dict[str, Any]:
    return {"low": low, "high": high, **more}


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Where the volumes come from and how a batch is drawn from them.

    Attributes
    ----------
    source : str
        ``phantom`` (made on the way from seeds) or ``prepared`` (a folder that ``train prepare`` wrote).
    folder : str or None
        The prepared folder.
    train, validation, test : Mapping[str, int]
        Phantom volumes a split: centre -> number. One volume is one patient, so splits cannot share patients.
    centres_train, centres_test : tuple[str, ...]
        Centres of a prepared folder to train on and to test on; empty: all. Leaving one out is the cross-centre test.
    matrix, fov_mm, n_slices, slice_mm : int, float, int, float
        Geometry of the phantom volumes.
    workers : int
        Processes that make phantom volumes.
    balance : str
        ``centre``: every centre is drawn equally often, whatever its size.
    lesion_share : float
        Share of a batch that is drawn from lesion slices.
    on_device : bool
        Keep the whole split as 16-bit planes on the training device, and augment there.
    """

    train: Mapping[str, int] = field(default_factory=dict)
    validation: Mapping[str, int] = field(default_factory=dict)
    test: Mapping[str, int] = field(default_factory=dict)
    source: Literal["phantom", "prepared"] = "phantom"
    folder: str | None = None
    centres_train: tuple[str, ...] = ()
    centres_test: tuple[str, ...] = ()
    matrix: int = field(default=256, metadata=_range(32))
    fov_mm: float = field(default=230.4, metadata=_range(1.0))
    n_slices: int = field(default=24, metadata=_range(3))
    slice_mm: float = field(default=5.0, metadata=_range(0.5, 8.0))
    workers: int = field(default=2, metadata=_range(1))
    balance: Literal["none", "centre"] = "none"
    lesion_share: float = field(default=0.5, metadata=_range(0.0, 1.0))
    on_device: bool = False


@dataclass(frozen=True, slots=True)
class InputRecipe:
    """What the networks see; decides the preprocessing contract of the bundle (`train.recipe.contract_of`).

    Attributes
    ----------
    grid_px : int or None
        Rows and columns of the network grid of phantom volumes, over the same field of view of 230.4 mm; None is the
        contract's 256. Fewer are for trials: such a network answers in larger pixels.
    windows_hu : tuple[tuple[float, float], ...]
        Lower and upper HU of each CT channel. Early ischaemia is a change of 2 to 6 HU, hence a narrow one.
    neighbours : int
        Slices above and below that are fed too (2.5-D input: 2 gives five slices).
    mirror : bool
        Feed the CT mirrored at the mid-sagittal line too: ischaemia is one-sided.
    asymmetry_mm : tuple[float, ...]
        Feed the difference of regional tissue HU from the other side, at these scales.
    context_window_hu : tuple[float, float]
        Window of the channels of neighbours and mirror image.
    mask_channels : tuple[str, ...]
        ``brain`` and, optionally, ``edge_distance``.
    """

    grid_px: int | None = field(default=None, metadata=_range(32, 1024))
    windows_hu: tuple[tuple[float, float], ...] = ((0.0, 80.0), (20.0, 60.0), (-135.0, 215.0))
    neighbours: int = field(default=0, metadata=_range(0, 4))
    mirror: bool = False
    asymmetry_mm: tuple[float, ...] = ()
    context_window_hu: tuple[float, float] = (10.0, 60.0)
    mask_channels: tuple[str, ...] = ("brain", "edge_distance")


@dataclass(frozen=True, slots=True)
class AugmentRecipe:
    """Random changes of a slice; CT, target, mask and lesion move alike. There is no vertical flip.

    ``probability`` is that of the movement (rotation, scale, shift); noise, offset and gamma act on the HU only:
    noise of sd 0 to ``noise_hu``, calibration within +-``offset_hu``, contrast of 0-80 HU with an exponent whose
    logarithm is within +-``gamma``, Gaussian blur of sd 0 to ``blur_px``.
    """

    probability: float = field(default=0.5, metadata=_range(0.0, 1.0))
    flip: bool = True
    rotation_deg: float = field(default=8.0, metadata=_range(0.0, 45.0))
    scale: float = field(default=0.08, metadata=_range(0.0, 0.5))
    shift: float = field(default=0.03, metadata=_range(0.0, 0.3))
    noise_hu: float = field(default=2.0, metadata=_range(0.0))
    offset_hu: float = field(default=1.5, metadata=_range(0.0))
    gamma: float = field(default=0.0, metadata=_range(0.0, 0.9))
    blur_px: float = field(default=0.0, metadata=_range(0.0, 8.0))


@dataclass(frozen=True, slots=True)
class LossRecipe:
    """Terms of the generator's loss and their weights; a term with weight 0 is not computed.

    Attributes
    ----------
    pixel : str
        ``squared``, ``robust`` (Barron's general loss with ``alpha`` and ``scale_c``), ``adaptive`` (both learnt),
        ``l1`` or ``none``. With c below 0.5 the robust loss paints uncertain lesions as normal brain.
    lesion_weight, brain_weight, background_weight : float
        Pixel weights: brain ``brain_weight``, lesion that plus ``lesion_weight``, background as ``normalise`` says.
    normalise : str
        ``brain``: weights of the brain sum to 1 an image, the background adds at most ``background_weight``;
        ``frame``: weights have the mean 1 over the frame.
    gan, gan_weight, feature_matching_weight : str, float, float
        Adversarial loss (least squares or hinge) and its company, in adversarial stages only.
    perceptual, perceptual_weight, perceptual_file : str, float, str or None
        ``disc`` (feature matching under another name), ``seg`` (encoder of a segmenter, from a file that
        ``train segmenter`` wrote) or ``vgg`` (VGG-19 state dict in a local file).
    regional_weight, regional_blocks : float, int
        Squared error of regional means, of so many blocks along a side of the frame: what is left of the residual
        without its texture. It finds lesions that the pixel loss loses in texture.
    wavelet_weight, wavelet_levels : float, int
        L1 on the detail bands of a Haar transform.
    ms_ssim_weight, gradient_difference_weight, lesion_contrast_weight : float
        1 - MS-SSIM; gradient difference; contrast of the lesion against the mirrored side.
    heteroscedastic : bool
        Laplace likelihood of the pixel residual with the scale that the generator predicts beside the mean.
    """

    pixel: Literal["squared", "robust", "adaptive", "l1", "none"] = "squared"
    alpha: float = field(default=1.0, metadata=_range(None, 2.0, infinite=True))
    scale_c: float = field(default=0.5, metadata=_range(0.02))
    pixel_weight: float = field(default=10.0, metadata=_range(0.0))
    lesion_weight: float = field(default=4.0, metadata=_range(0.0))
    brain_weight: float = field(default=1.0, metadata=_range(0.0))
    background_weight: float = field(default=0.02, metadata=_range(0.0))
    normalise: Literal["brain", "frame"] = "brain"
    gan: Literal["lsgan", "hinge"] = "lsgan"
    gan_weight: float = field(default=0.5, metadata=_range(0.0))
    feature_matching_weight: float = field(default=2.0, metadata=_range(0.0))
    perceptual: Literal["none", "disc", "seg", "vgg"] = "none"
    perceptual_weight: float = field(default=0.0, metadata=_range(0.0))
    perceptual_file: str | None = None
    regional_weight: float = field(default=0.0, metadata=_range(0.0))
    regional_blocks: int = field(default=16, metadata=_range(1))
    wavelet_weight: float = field(default=0.0, metadata=_range(0.0))
    wavelet_levels: int = field(default=3, metadata=_range(1, 6))
    ms_ssim_weight: float = field(default=0.0, metadata=_range(0.0))
    gradient_difference_weight: float = field(default=0.0, metadata=_range(0.0))
    lesion_contrast_weight: float = field(default=0.0, metadata=_range(0.0))
    heteroscedastic: bool = False


@dataclass(frozen=True, slots=True)
class OptimiserRecipe:
    """Adam for both networks.

    ``clip_norm`` bounds the generator's gradient (0: no bound); ``ema_decay`` is that of the averaged weights (0: the
    weights themselves); ``discriminator_decay`` lets the discriminator's rate fall with the stage's; ``weight_decay``
    is decoupled (AdamW); ``fused`` asks for the fused kernel where the device has one.
    """

    beta1: float = field(default=0.5, metadata=_range(0.0, 0.999))
    beta2: float = field(default=0.999, metadata=_range(0.0, 0.99999))
    discriminator_learning_rate: float = field(default=1e-4, metadata=_range(0.0))
    discriminator_decay: bool = False
    clip_norm: float = field(default=5.0, metadata=_range(0.0))
    ema_decay: float = field(default=0.999, metadata=_range(0.0, 0.99999))
    weight_decay: float = field(default=0.0, metadata=_range(0.0))
    fused: bool = True


@dataclass(frozen=True, slots=True)
class DiscriminatorRecipe:
    """Size of the PatchGAN discriminator (our choice: smaller than pix2pixHD's, which has 64 first filters).

    ``mask`` shows it the mask channels too; ``r1_gamma`` above 0 adds the gradient penalty on real images in every
    ``r1_every``-th step, weighted ``r1_gamma / 2 * r1_every``.
    """

    ndf: int = field(default=24, metadata=_range(1))
    n_layers: int = field(default=3, metadata=_range(1, 6))
    num_scales: int = field(default=2, metadata=_range(1, 4))
    spectral_norm: bool = False
    mask: bool = False
    r1_gamma: float = field(default=0.0, metadata=_range(0.0))
    r1_every: int = field(default=16, metadata=_range(1))


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One stage: a resolution, a length, and whether the discriminator takes part.

    A stage ends after ``steps`` (or ``epochs`` over the training slices), or when the ``time_share`` of the stages up
    to it of the run's time limit is used up. The learning rate is held for the first ``hold`` of the stage and then
    falls (``decay``) to ``final_rate`` times itself, with steps or time, whichever is further on, so that a run cut by
    time still ends at a small rate. ``batch`` is that of one process. ``bf16`` is autocast in training only (weights,
    losses and the moving average stay fp32); the precision of inference is decided elsewhere.

    ``loss`` sets weights of [loss] (names that end with ``_weight``) otherwise for this stage.
    """

    name: str
    grid_px: int = field(metadata=_range(8))
    steps: int | None = field(default=None, metadata=_range(1))
    epochs: int | None = field(default=None, metadata=_range(1))
    batch: int = field(default=4, metadata=_range(1))
    learning_rate: float = field(default=2e-4, metadata=_range(0.0))
    decay: Literal["cosine", "linear"] = "cosine"
    hold: float = field(default=0.0, metadata=_range(0.0, 1.0))
    final_rate: float = field(default=0.05, metadata=_range(0.0, 1.0))
    warm_up_steps: int = field(default=0, metadata=_range(0))
    time_share: float = field(default=1.0, metadata=_range(0.0, 1.0))
    adversarial: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    loss: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogRecipe:
    """How often (in steps) the run log, the validation figures, the pictures and the checkpoint are written.

    ``samples_every`` 0 draws sample pictures with each validation. ``selection`` says which averaged weights a run
    stands for: those at its end, or those of the best validation in its last stage (mean brain PSNR over patients).
    """

    every: int = field(default=20, metadata=_range(1))
    validate_every: int = field(default=200, metadata=_range(1))
    validation_slices: int = field(default=48, metadata=_range(1))
    checkpoint_every: int = field(default=100, metadata=_range(1))
    samples_every: int = field(default=0, metadata=_range(0))
    tensorboard: bool = True
    selection: Literal["last", "best"] = "last"


@dataclass(frozen=True, slots=True)
class RuntimeRecipe:
    """How the machine computes, without a change of what is computed: memory layout and compilation."""

    channels_last: bool = False
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a trained network.

    ``method`` names one of `train.registry`. For ``jmmda``, ``generator`` is a size and changes to it
    (`GeneratorSettings`); a recipe that was read holds the numbers of CT and mask channels there, derived from
    ``input``. For a comparison method, ``options`` holds what the method itself may vary, and ``generator``,
    ``discriminator`` and ``loss`` are left out.
    """

    name: str
    description: str
    data: DataRecipe
    stages: tuple[StageRecipe, ...]
    method: str = JMMDA
    generator: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = field(default=0, metadata=_range(0))
    max_minutes: float | None = field(default=None, metadata=_range(0.0))
    input: InputRecipe = field(default_factory=InputRecipe)
    discriminator: DiscriminatorRecipe = field(default_factory=DiscriminatorRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    run: RuntimeRecipe = field(default_factory=RuntimeRecipe)
    log: LogRecipe = field(default_factory=LogRecipe)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to ``recipe.json`` of a run."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from `to_json`.

        Raises
        ------
        RecipeError
            When a value no longer fits this version of the program.
        """
        from train.recipe.loading import parse_recipe

        return parse_recipe(dict(values), "recipe.json")
