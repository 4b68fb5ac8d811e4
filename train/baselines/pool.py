"""Pool of earlier predictions that a discriminator is shown among the new ones (Shrivastava et al., CVPR 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps ``size`` images; half of those asked for come from the pool once it is full.

    Which, is drawn from torch's global generator.

    Parameters
    ----------
    size : int
        Images; 0 returns every batch as it is.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._images: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._images)

    @torch.no_grad()
    def exchanged(self, images: Tensor) -> Tensor:
        """A batch of the same shape: new images, and with probability 0.5 each an old one in its place, which it
        replaces in the pool.

        Parameters
        ----------
        images : Tensor
            (B, C, H, W), taken without gradients.
        """  # noqa: D205  (one sentence)
        if not self.size:
            return images.detach()
        return torch.stack([self._exchanged(image) for image in images.detach()])

    def _exchanged(self, image: Tensor) -> Tensor:
        if self._images and self._images[0].shape != image.shape:
            self._images.clear()  # another resolution
        if len(self._images) < self.size:
            self._images.append(image.clone())
            return image
        if float(torch.rand(())) < 0.5:
            return image
        index = int(torch.randint(self.size, ()))
        old, self._images[index] = self._images[index], image.clone()
        return old

    def state_dict(self) -> dict[str, Any]:
        """The images."""
        return {"images": torch.stack(self._images) if self._images else None}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take images over."""
        images = state_dict["images"]
        self._images = [] if images is None else list(images)
