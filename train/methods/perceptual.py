"""The perceptual network of a recipe, read from its file."""

from __future__ import annotations

from pathlib import Path

import torch

from train.objectives import PerceptualTerm, build_perceptual
from train.recipe import LossRecipe


def perceptual_term(loss: LossRecipe, device: torch.device) -> PerceptualTerm | None:
    """Build the perceptual term, with the segmenter or VGG-19 that ``perceptual_file`` holds.

    Raises
    ------
    train.objectives.ObjectiveError, train.segmenter.SegmenterError
        When the file does not hold the network that is asked for.
    """
    if loss.perceptual != "seg" or loss.perceptual_file is None:
        return build_perceptual(loss, device)
    from train.segmenter import load_segmenter

    return build_perceptual(loss, device, load_segmenter(Path(loss.perceptual_file), device))
