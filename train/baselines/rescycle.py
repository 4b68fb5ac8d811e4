"""ResCycleGAN in two readings, both of two ResNet generators that undo each other.

``rescycle_repo`` is what a public implementation trains under this name: CycleGAN (Zhu et al., ICCV 2017) with its
identity term, without an image pool and without any term that uses that the images are paired.
``rescycle_paper`` reads the article (Dai et al., Phys. Med. Biol. 2020): the same, with paired training by a mean
p-distance (p = 1.5) and a gradient difference, in both directions. Ours is whole images where the article takes
patches, and the weights.

As in CycleGAN, the generators learn first, and the discriminators then see the predictions that those learnt from.
With the mask, both generators see it: it is known in both directions. The discriminators see one image and no
condition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import (
    PatchGan,
    init_gaussian,
    least_squares,
    patch_widths,
    resnet_generator,
    scaled,
)
from train.data.dataset import Batch
from train.methods.base import Moment
from train.objectives.structure import gradient_difference_loss

_HALVINGS = 2


@dataclass(frozen=True, slots=True)
class ResCycleOptions(Options):
    """Options of both readings.

    Attributes
    ----------
    n_blocks : int
        Residual blocks of each generator.
    cycle_weight : float
        Of L1 between an image and its way there and back, for each of the two ways.
    identity_share : float
        Weight of L1 between an image and what the generator of its own kind makes of it, as a share of the cycle's.
    distance_weight, exponent : float
        Weight and power of the mean p-distance between prediction and truth; 0 for unpaired training.
    gradient_weight : float
        Of the gradient difference between prediction and truth; 0 for unpaired training.
    """

    n_blocks: int = field(default=9, metadata={"low": 1, "high": 64})
    cycle_weight: float = field(default=10.0, metadata={"low": 0.0})
    identity_share: float = field(default=0.5, metadata={"low": 0.0})
    distance_weight: float = field(default=0.0, metadata={"low": 0.0})
    exponent: float = field(default=1.5, metadata={"low": 1.0, "high": 4.0})
    gradient_weight: float = field(default=0.0, metadata={"low": 0.0})


class _Translated(NamedTuple):
    """Predictions, each from the other kind of image: DWI (B, 1, H, W) and CT (B, C, H, W)."""

    dwi: Tensor
    ct: Tensor


class ResCycle(BaselineMethod[ResCycleOptions]):
    """Generators from CT to DWI and back, a discriminator of each kind of image."""

    optimised = {  # noqa: RUF012  (declared as ClassVar in the base)
        GENERATOR: (GENERATOR, "back"),
        "discriminator": ("discriminator", "discriminator_ct"),
    }

    @classmethod
    def translator(cls, options: ResCycleOptions, channels: Channels) -> Translator:
        """The generator from CT to DWI."""
        return Translator(_generator(channels.given(options), 1, options), with_mask=options.mask)

    @classmethod
    def companions(cls, options: ResCycleOptions, channels: Channels) -> dict[str, nn.Module]:
        """The generator from DWI to CT, and the discriminators of DWI and CT."""
        given = channels.given(options) - channels.ct + 1
        widths = patch_widths(options.width)
        return {
            "back": _generator(given, channels.ct, options),
            "discriminator": init_gaussian(PatchGan(1, widths)),
            "discriminator_ct": init_gaussian(PatchGan(channels.ct, widths)),
        }

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of both generators, then one of both discriminators."""
        fake = _Translated(dwi=self._to_dwi(batch.ct, batch), ct=self._to_ct(batch.target, batch))
        terms = {
            "gan": least_squares(self.run(self.still["discriminator"], fake.dwi)[-1], 1.0),
            "gan_back": least_squares(self.run(self.still["discriminator_ct"], fake.ct)[-1], 1.0),
            **self._cycle_terms(fake, batch),
            **self._identity_terms(batch),
            **self._paired_terms(fake, batch),
        }
        self.descend(GENERATOR, terms)
        judged = {
            "discriminator": self._judged("discriminator", batch.target, fake.dwi),
            "discriminator_ct": self._judged("discriminator_ct", batch.ct, fake.ct),
        }
        self.descend("discriminator", judged)
        return terms | judged

    def _to_dwi(self, ct: Tensor, batch: Batch) -> Tensor:
        image: Tensor = self.run(self.generator.core, self.generator.given(ct, batch.mask))
        return image

    def _to_ct(self, dwi: Tensor, batch: Batch) -> Tensor:
        image: Tensor = self.run(self.network("back"), self.generator.given(dwi, batch.mask))
        return image

    def _cycle_terms(self, fake: _Translated, batch: Batch) -> dict[str, Tensor]:
        weight = self.options.cycle_weight
        return {
            "cycle_ct": weight * l1_loss(self._to_ct(fake.dwi, batch), batch.ct),
            "cycle_dwi": weight * l1_loss(self._to_dwi(fake.ct, batch), batch.target),
        }

    def _identity_terms(self, batch: Batch) -> dict[str, Tensor]:
        """What a generator makes of an image that is already of its kind.

        With several CT channels, the DWI stands in for each of them, and their mean for the DWI.
        """
        weight = self.options.cycle_weight * self.options.identity_share
        if not weight:
            return {}
        as_ct = batch.target.expand_as(batch.ct)
        as_dwi = batch.ct.mean(dim=1, keepdim=True)
        return {
            "identity_dwi": weight * l1_loss(self._to_dwi(as_ct, batch), batch.target),
            "identity_ct": weight * l1_loss(self._to_ct(as_dwi, batch), batch.ct),
        }

    def _paired_terms(self, fake: _Translated, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for ending, image, truth in (("", fake.dwi, batch.target), ("_back", fake.ct, batch.ct)):
            if weight := self.options.distance_weight:
                terms[f"distance{ending}"] = weight * ((image - truth).abs() ** self.options.exponent).mean()
            if weight := self.options.gradient_weight:
                terms[f"gradient{ending}"] = weight * gradient_difference_loss(image, truth)
        return terms

    def _judged(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        discriminator = self.network(name)
        on_real, on_fake = self.run(discriminator, real)[-1], self.run(discriminator, fake.detach())[-1]
        return 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))


def _generator(in_channels: int, out_channels: int, options: ResCycleOptions) -> nn.Module:
    """ResNet generator of two halvings."""
    ngf = scaled(64, options.width)
    return init_gaussian(
        resnet_generator(in_channels, out_channels, ngf=ngf, n_down=_HALVINGS, n_blocks=options.n_blocks)
    )


_PAIRED = ResCycleOptions(distance_weight=10.0, gradient_weight=10.0)

ENTRIES = (
    Entry("rescycle_repo", "ResCycleGAN (CycleGAN)", "public implementation: CycleGAN", ResCycle, ResCycleOptions()),
    Entry(
        "rescycle_paper",
        "ResCycleGAN (paired)",
        "Dai et al., Phys. Med. Biol. 2020: reading of the article",
        ResCycle,
        _PAIRED,
        Schedule(learning_rate=2e-4),
    ),
)
