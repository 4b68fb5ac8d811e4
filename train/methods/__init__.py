"""What the trainer asks of a method, what methods share, and JMMDA-GAN; `train.registry` knows them all."""

from __future__ import annotations

from train.methods.base import Method, Moment, StepReport
from train.methods.jmmda import JmmdaMethod

__all__ = ["JmmdaMethod", "Method", "Moment", "StepReport"]
