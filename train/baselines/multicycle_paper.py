"""MultiCycleGAN in the reading of the article (Liu et al., CMIG 2021), which translates head and neck MR to CT.

Known from the abstract only: a cycle GAN with a pseudo-cycle consistent module, a domain control module and a generator
for anatomical detail. What stands here is our reading of it. Pseudo-cycle: a translated image that is fed on, there and
back, must agree with itself. Domain control: a generator leaves an image of its own target domain as it is. The
generators are the ResNets of CycleGAN. Ours are pairs, so both translations are compared with the truth as well. Rate,
batch and epochs are CycleGAN's. The public implementation is `train.baselines.multicycle_repo`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

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


@dataclass(frozen=True, slots=True)
class MultiCyclePaperOptions(Options):
    """Depth of the generators and weights of the losses.

    Attributes
    ----------
    n_blocks : int
        Residual blocks of each generator.
    cycle_weight, pseudo_cycle_weight, identity_weight, paired_weight : float
        Of L1 after there and back, of a translation against itself after there and back, of images given to the
        generator of their own domain, and of both translations against the truth.
    """

    n_blocks: int = field(default=9, metadata={"low": 1, "high": 20})
    cycle_weight: float = field(default=10.0, metadata={"low": 0.0})
    pseudo_cycle_weight: float = field(default=5.0, metadata={"low": 0.0})
    identity_weight: float = field(default=5.0, metadata={"low": 0.0})
    paired_weight: float = field(default=10.0, metadata={"low": 0.0})


class MultiCyclePaper(BaselineMethod[MultiCyclePaperOptions]):
    """Two generators, which learn together and first, and an unconditional discriminator for each domain.

    The generator that predicts makes DWI of CT, ``back`` CT of DWI. With several CT channels ``back`` makes all of
    them; domain control then looks at the first, the slice itself.
    """

    optimised = {  # noqa: RUF012  (declared as ClassVar in the base)
        GENERATOR: (GENERATOR, "back"),
        "discriminator": ("discriminator", "ct_discriminator"),
    }

    @classmethod
    def translator(cls, options: MultiCyclePaperOptions, channels: Channels) -> Translator:
        """ResNet from CT to DWI."""
        return Translator(_resnet(channels.given(options), 1, options), with_mask=options.mask)

    @classmethod
    def companions(cls, options: MultiCyclePaperOptions, channels: Channels) -> dict[str, nn.Module]:
        """ResNet from DWI to CT, and the discriminators of DWI and of CT."""
        return {
            "back": _resnet(1, channels.ct, options),
            "discriminator": init_gaussian(PatchGan(1, patch_widths(options.width))),
            "ct_discriminator": init_gaussian(PatchGan(channels.ct, patch_widths(options.width))),
        }

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of both generators, then one of both discriminators."""
        ct, dwi = batch.ct, batch.target
        fake_dwi, fake_ct = self._to_dwi(ct, batch.mask), self._to_ct(dwi)
        back_ct, back_dwi = self._to_ct(fake_dwi), self._to_dwi(fake_ct, batch.mask)
        again_dwi, again_ct = self._to_dwi(back_ct, batch.mask), self._to_ct(back_dwi)
        same_dwi, same_ct = self._to_dwi(dwi.expand_as(ct), batch.mask), self._to_ct(ct[:, :1])[:, :1]
        on_dwi = self.run(self.still["discriminator"], fake_dwi)[-1]
        on_ct = self.run(self.still["ct_discriminator"], fake_ct)[-1]
        options, l1 = self.options, functional.l1_loss
        terms = {
            "gan": least_squares(on_dwi, 1.0) + least_squares(on_ct, 1.0),
            "cycle": options.cycle_weight * (l1(back_ct, ct) + l1(back_dwi, dwi)),
            "pseudo_cycle": options.pseudo_cycle_weight * (l1(again_dwi, fake_dwi) + l1(again_ct, fake_ct)),
            "identity": options.identity_weight * (l1(same_dwi, dwi) + l1(same_ct, ct[:, :1])),
            "paired": options.paired_weight * (l1(fake_dwi, dwi) + l1(fake_ct, ct)),
        }
        self.descend(GENERATOR, terms)
        judged = {
            "discriminator": self._judged("discriminator", dwi, fake_dwi.detach()),
            "ct_discriminator": self._judged("ct_discriminator", ct, fake_ct.detach()),
        }
        self.descend("discriminator", judged)
        return terms | judged

    def _to_dwi(self, ct: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.run(self.generator.core, self.generator.given(ct, mask)))

    def _to_ct(self, dwi: Tensor) -> Tensor:
        return cast(Tensor, self.run(self.network("back"), dwi))

    def _judged(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of a discriminator."""
        on_real, on_fake = (self.run(self.network(name), image)[-1] for image in (real, fake))
        return 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))


def _resnet(in_channels: int, out_channels: int, options: MultiCyclePaperOptions) -> nn.Module:
    """ResNet of CycleGAN."""
    ngf = scaled(64, options.width)
    return init_gaussian(resnet_generator(in_channels, out_channels, ngf=ngf, n_down=2, n_blocks=options.n_blocks))


ENTRIES = (
    Entry(
        "multicycle_paper",
        "MultiCycleGAN (paper)",
        "article: Liu et al., CMIG 2021, our reading of its abstract",
        MultiCyclePaper,
        MultiCyclePaperOptions(),
        Schedule(learning_rate=2e-4, batch=1),
    ),
)
