"""ResCycleGAN in two readings, both of two ResNet generators that undo each other.

``rescycle_repo`` is what a public implementation trains under this name: CycleGAN (Zhu et al., ICCV 2017) with its
identity term, without an image pool and without any term that uses that the images are paired.
``rescycle_paper`` reads the article (Dai et al., Phys. Med. Biol. 2020): the same, with paired training by a mean
p-distance (p = 1.5) and a gradient difference, in both directions. Ours is whole images where the article takes
patches, and the weights.

With the mask, both generators see it: it is known in both directions. The discriminators see one image and no
condition.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import l1_loss

from train.baselines.base import Entry, Schedule
from train.baselines.two_way import Translated, TwoWayMethod, TwoWayOptions
from train.data.dataset import Batch
from train.objectives.structure import gradient_difference_loss


@dataclass(frozen=True, slots=True)
class ResCycleOptions(TwoWayOptions):
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

    cycle_weight: float = field(default=10.0, metadata={"low": 0.0})
    identity_share: float = field(default=0.5, metadata={"low": 0.0})
    distance_weight: float = field(default=0.0, metadata={"low": 0.0})
    exponent: float = field(default=1.5, metadata={"low": 1.0, "high": 4.0})
    gradient_weight: float = field(default=0.0, metadata={"low": 0.0})


class ResCycle(TwoWayMethod[ResCycleOptions]):
    """Terms of each direction by itself; what a reading does without is not computed."""

    ct_judge = "discriminator_ct"
    masked_back = True

    @classmethod
    def evaluations(cls, options: ResCycleOptions) -> int:
        """DWI of the CT, of the cycle and, where identity counts, of the DWI itself."""
        return 3 if options.cycle_weight * options.identity_share else 2

    def generator_terms(self, fake: Translated, batch: Batch) -> dict[str, Tensor]:
        """Adversarial terms and cycles, identities and, for paired training, distances from the truth."""
        on_dwi, on_ct = self.deceived(fake)
        return {
            "gan": on_dwi,
            "gan_back": on_ct,
            **self._cycle_terms(fake, batch),
            **self._identity_terms(batch),
            **self._paired_terms(fake, batch),
        }

    def _cycle_terms(self, fake: Translated, batch: Batch) -> dict[str, Tensor]:
        weight = self.options.cycle_weight
        return {
            "cycle_ct": weight * l1_loss(self.to_ct(fake.dwi, batch), batch.ct),
            "cycle_dwi": weight * l1_loss(self.to_dwi(fake.ct, batch), batch.target),
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
            "identity_dwi": weight * l1_loss(self.to_dwi(as_ct, batch), batch.target),
            "identity_ct": weight * l1_loss(self.to_ct(as_dwi, batch), batch.ct),
        }

    def _paired_terms(self, fake: Translated, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for ending, image, truth in (("", fake.dwi, batch.target), ("_back", fake.ct, batch.ct)):
            if weight := self.options.distance_weight:
                terms[f"distance{ending}"] = weight * ((image - truth).abs() ** self.options.exponent).mean()
            if weight := self.options.gradient_weight:
                terms[f"gradient{ending}"] = weight * gradient_difference_loss(image, truth)
        return terms


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
