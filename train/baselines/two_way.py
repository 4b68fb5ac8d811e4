"""What methods of two generators that undo each other share, after CycleGAN (Zhu et al., ICCV 2017).

The generator that predicts makes DWI of CT, ``back`` CT of DWI; each kind of image has an unconditional discriminator.
The generators learn together and first, and the discriminators then see the predictions that those learnt from.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Options, Translator
from train.baselines.layers import PatchGan, init_gaussian, least_squares, patch_widths, resnet_generator, scaled
from train.data.dataset import Batch
from train.methods.base import Moment

BACK = "back"
_JUDGE = "discriminator"
_HALVINGS = 2


@dataclass(frozen=True, slots=True)
class TwoWayOptions(Options):
    """Options of all: ``n_blocks``, residual blocks of each generator."""

    n_blocks: int = field(default=9, metadata={"low": 1, "high": 64})


class Translated(NamedTuple):
    """Predictions, each from the other kind of image: DWI (B, 1, H, W) and CT (B, C, H, W)."""

    dwi: Tensor
    ct: Tensor


W = TypeVar("W", bound=TwoWayOptions)


class TwoWayMethod(BaselineMethod[W]):
    """Generators from CT to DWI and back, a discriminator of each kind of image, and the order in which they learn.

    A subclass sets `ct_judge` and `masked_back`, and writes `generator_terms`. With several CT channels ``back`` makes
    all of them.
    """

    #: Name of the CT's discriminator; the DWI's is called ``discriminator``.
    ct_judge: ClassVar[str]
    #: Whether ``back`` sees the mask where the generator that predicts does.
    masked_back: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.optimised = {GENERATOR: (GENERATOR, BACK), _JUDGE: (_JUDGE, cls.ct_judge)}

    @classmethod
    def translator(cls, options: W, channels: Channels) -> Translator:
        """ResNet from CT to DWI."""
        return Translator(_resnet(channels.given(options), 1, options), with_mask=options.mask)

    @classmethod
    def companions(cls, options: W, channels: Channels) -> dict[str, nn.Module]:
        """ResNet from DWI to CT, and the discriminators of DWI and of CT."""
        masks = channels.given(options) - channels.ct if cls.masked_back else 0
        widths = patch_widths(options.width)
        return {
            BACK: _resnet(1 + masks, channels.ct, options),
            _JUDGE: init_gaussian(PatchGan(1, widths)),
            cls.ct_judge: init_gaussian(PatchGan(channels.ct, widths)),
        }

    @abstractmethod
    def generator_terms(self, fake: Translated, batch: Batch) -> dict[str, Tensor]:
        """Weighted terms that both generators learn from, given what they made of the batch."""

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of both generators, then one of both discriminators."""
        fake = Translated(dwi=self.to_dwi(batch.ct, batch), ct=self.to_ct(batch.target, batch))
        terms = self.generator_terms(fake, batch)
        self.descend(GENERATOR, terms)
        judged = {
            _JUDGE: self._judged(_JUDGE, batch.target, fake.dwi.detach()),
            self.ct_judge: self._judged(self.ct_judge, batch.ct, fake.ct.detach()),
        }
        self.descend(_JUDGE, judged)
        return terms | judged

    def to_dwi(self, ct: Tensor, batch: Batch) -> Tensor:
        """What the generator that predicts makes of a CT (B, C, H, W)."""
        image: Tensor = self.run(self.generator.core, self.generator.given(ct, batch.mask))
        return image

    def to_ct(self, dwi: Tensor, batch: Batch) -> Tensor:
        """What ``back`` makes of a DWI (B, 1, H, W)."""
        given = self.generator.given(dwi, batch.mask) if self.masked_back else dwi
        image: Tensor = self.run(self.network(BACK), given)
        return image

    def deceived(self, fake: Translated) -> tuple[Tensor, Tensor]:
        """Adversarial losses of both generators: that of the DWI, and that of the CT."""
        images = ((_JUDGE, fake.dwi), (self.ct_judge, fake.ct))
        of_dwi, of_ct = (least_squares(self.run(self.still[name], image)[-1], 1.0) for name, image in images)
        return of_dwi, of_ct

    def _judged(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of a discriminator."""
        on_real, on_fake = (self.run(self.network(name), image)[-1] for image in (real, fake))
        return 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))


def _resnet(in_channels: int, out_channels: int, options: TwoWayOptions) -> nn.Module:
    """ResNet of CycleGAN."""
    ngf = scaled(64, options.width)
    return init_gaussian(
        resnet_generator(in_channels, out_channels, ngf=ngf, n_down=_HALVINGS, n_blocks=options.n_blocks)
    )
