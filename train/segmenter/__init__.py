"""A small U-Net that finds lesion and brain on *measured* DWI: judge of synthetic DWI, and a perceptual network.

It is trained on the training split's measured DWI alone and never sees a synthetic image, so its score on measured
DWI is the ceiling of its score on synthetic DWI. Frozen, its encoder features serve the ``seg`` perceptual loss, which
needs no downloaded weights. Only torch, NumPy and safetensors are used.
"""

from __future__ import annotations

from train.segmenter.network import Segmenter, SegmenterCard, SegmenterError, load_segmenter, save_segmenter
from train.segmenter.training import dice_on, gather_slices, segmentation_loss, train_segmenter, with_dice

__all__ = [
    "Segmenter",
    "SegmenterCard",
    "SegmenterError",
    "dice_on",
    "gather_slices",
    "load_segmenter",
    "save_segmenter",
    "segmentation_loss",
    "train_segmenter",
    "with_dice",
]
