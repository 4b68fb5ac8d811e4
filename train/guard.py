"""Optimiser steps that are skipped and counted when a loss or gradient is not finite, without waiting on a GPU."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.optim import Optimizer

from train.devices import Devices
from train.state import Position, TrainingError

_log = logging.getLogger(__name__)

#: A run that skips this many steps in a row is broken, not unlucky.
MAX_SKIPPED_IN_A_ROW = 25


class StepGuard:
    """Takes a step where everything is finite, and counts the others.

    On a CPU the answer is looked at once a step. On a GPU that would stop the queue of work in every step, so the
    answer stays on the device: the fused Adam kernel itself leaves the weights alone where ``found_inf`` is set, and
    the counts are read when the step is logged anyway.

    Parameters
    ----------
    devices : Devices
        Several processes take or skip a step together.
    position : Position
        Its ``skipped`` and ``skipped_in_a_row`` are kept up to date.
    on_device : bool, optional
        Leave the answer on the device; default: on CUDA.
    """

    def __init__(self, devices: Devices, position: Position, *, on_device: bool | None = None) -> None:
        self.devices = devices
        self.on_device = devices.device.type == "cuda" if on_device is None else on_device
        self.follow(position)

    def follow(self, position: Position) -> None:
        """Count on from the counts of another position."""
        self.position = position
        self._skipped = torch.tensor(float(position.skipped), device=self.devices.device)
        self._in_a_row = torch.tensor(float(position.skipped_in_a_row), device=self.devices.device)

    def step(self, optimiser: Optimizer, finite: Tensor, *, counts: bool = True) -> bool:
        """Let ``optimiser`` take its step if ``finite`` (a boolean scalar) holds in every process.

        Parameters
        ----------
        optimiser : torch.optim.Optimizer
            With gradients.
        finite : Tensor
            Whether loss and gradients are.
        counts : bool
            Whether a skipped step is counted; a second optimiser of the same step does not count again.

        Returns
        -------
        bool
            False when the step is known to be skipped; on the device path it is not known, and True.

        Raises
        ------
        TrainingError
            ``not_finite``: too many skipped steps in a row.
        """
        found = self.devices.largest((~finite).to(torch.float32))
        if self.on_device and optimiser.defaults.get("fused"):
            setattr(optimiser, "found_inf", found)  # noqa: B010  (read by Adam's fused kernel; GradScaler sets it so)
            optimiser.step()
            if counts:
                self._skipped += found
                self._in_a_row = (self._in_a_row + 1.0) * found
            return True
        skips = bool(found > 0)
        if not skips:
            optimiser.step()
        if counts:
            self._skipped += float(skips)
            self._in_a_row = (self._in_a_row + 1.0) * float(skips)
            if skips or self.position.skipped_in_a_row:
                self.read()
        return not skips

    def read(self) -> None:
        """Bring the counts to the position; on a GPU this waits for it.

        Raises
        ------
        TrainingError
            ``not_finite``: too many skipped steps in a row.
        """
        before = self.position.skipped
        self.position.skipped = int(self._skipped)
        self.position.skipped_in_a_row = int(self._in_a_row)
        if self.position.skipped > before:
            _log.warning(
                "%d of the steps up to %d skipped: loss or gradient is not finite",
                self.position.skipped - before,
                self.position.total,
            )
        if self.position.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                "not_finite", f"{MAX_SKIPPED_IN_A_ROW} steps in a row without a finite loss or gradient"
            )
