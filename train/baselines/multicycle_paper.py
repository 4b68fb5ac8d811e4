"""MultiCycleGAN in the reading of the article (Liu et al., CMIG 2021), which translates head and neck MR to CT.

Known from the abstract only: a cycle GAN with a pseudo-cycle consistent module, a domain control module and a generator
for anatomical detail. What stands here is our reading of it. Pseudo-cycle: a translated image that is fed on, there and
back, must agree with itself. Domain control: a generator leaves an image of its own target domain as it is. The
generators are the ResNets of CycleGAN. Ours are pairs, so both translations are compared with the truth as well. Rate,
batch and epochs are CycleGAN's. The public implementation is `train.baselines.multicycle_repo`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import l1_loss

from train.baselines.base import Entry, Schedule
from train.baselines.two_way import Translated, TwoWayMethod, TwoWayOptions
from train.data.dataset import Batch


@dataclass(frozen=True, slots=True)
class MultiCyclePaperOptions(TwoWayOptions):
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


class MultiCyclePaper(TwoWayMethod[MultiCyclePaperOptions]):
    """Terms of both directions together: cycles of two lengths, own domains, and pairs.

    With several CT channels, domain control of ``back`` looks at the first, the slice itself.
    """

    ct_judge = "ct_discriminator"
    masked_back = False

    @classmethod
    def evaluations(cls, options: MultiCyclePaperOptions) -> int:
        """DWI of the CT, of both cycles, and of the DWI itself."""
        return 4

    def generator_terms(self, fake: Translated, batch: Batch) -> dict[str, Tensor]:
        """Adversarial terms, cycle and pseudo-cycle, domain control, and distances from the truth."""
        ct, dwi, options = batch.ct, batch.target, self.options
        back_ct, back_dwi = self.to_ct(fake.dwi, batch), self.to_dwi(fake.ct, batch)
        again_dwi, again_ct = self.to_dwi(back_ct, batch), self.to_ct(back_dwi, batch)
        same_dwi, same_ct = self.to_dwi(dwi.expand_as(ct), batch), self.to_ct(ct[:, :1], batch)[:, :1]
        on_dwi, on_ct = self.deceived(fake)
        return {
            "gan": on_dwi + on_ct,
            "cycle": options.cycle_weight * (l1_loss(back_ct, ct) + l1_loss(back_dwi, dwi)),
            "pseudo_cycle": options.pseudo_cycle_weight * (l1_loss(again_dwi, fake.dwi) + l1_loss(again_ct, fake.ct)),
            "identity": options.identity_weight * (l1_loss(same_dwi, dwi) + l1_loss(same_ct, ct[:, :1])),
            "paired": options.paired_weight * (l1_loss(fake.dwi, dwi) + l1_loss(fake.ct, ct)),
        }


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
