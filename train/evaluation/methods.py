"""Run every method on every test volume: the network, the measured DWI itself as ceiling, and the simple controls.

The network runs in this process. Controls may run in worker processes beside it; they import no torch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jmmda_model.imaging.contract import PreprocessingContract
from train.controls import Control, ControlInput, fit_controls
from train.data.cache import CachedCase
from train.evaluation.lesions import finding, fit_bright_level
from train.evaluation.scoring import CaseTruth, VolumeScore
from train.evaluation.targets import MEASURED, NETWORK

if TYPE_CHECKING:
    from train.predict import Predictor
    from train.segmenter import Segmenter

Predict = Callable[[CachedCase], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What was fitted on training volumes: the controls and the level of the bright rule."""

    contract: PreprocessingContract
    controls: Mapping[str, Control]
    bright_level: float | None

    @classmethod
    def fit(cls, training: Sequence[CachedCase], contract: PreprocessingContract) -> Yardstick:
        """Fit on training volumes."""
        return cls(contract, fit_controls(training, contract), fit_bright_level(training))

    def truth(self, case: CachedCase) -> CaseTruth:
        """Prepare the truth of a case."""
        return CaseTruth(case, self.contract.grid_spacing_mm)

    def score_controls(self, case: CachedCase) -> dict[str, VolumeScore]:
        """Score the measured DWI and every control on one case."""
        truth, seen = self.truth(case), ControlInput.of(case, self.contract)
        scores = {MEASURED: truth.score(case.target_slices(), self.bright_level)}
        for name, control in self.controls.items():
            scores[name] = truth.score(control(seen), self.bright_level)
        return scores


_worker: list[Yardstick] = []


def _start_worker(yardstick: Yardstick) -> None:
    _worker[:] = [yardstick]


def _score_in_worker(case: CachedCase) -> dict[str, VolumeScore]:
    return _worker[0].score_controls(case)


@contextmanager
def _control_scores(
    yardstick: Yardstick, cases: Sequence[CachedCase], workers: int
) -> Iterator[Iterator[dict[str, VolumeScore]]]:
    """Scores of the controls case by case, in this process or in several."""
    if workers <= 1:
        yield (yardstick.score_controls(case) for case in cases)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(yardstick,))
    try:
        futures: list[Future[dict[str, VolumeScore]]] = [pool.submit(_score_in_worker, case) for case in cases]
        yield (future.result() for future in futures)
    finally:
        pool.shutdown(cancel_futures=True)


def with_segmenter(
    score: VolumeScore, truth: CaseTruth, image: NDArray[np.float32], segmenter: Segmenter
) -> VolumeScore:
    """Add what a segmenter marks in an image (S, H, W) in [-1, 1]; nothing is added where the lesion is unknown."""
    if truth.lesion_truth is None:
        return score
    marked = segmenter.lesion(image[truth.rows])[:, *truth.box] & truth.brain
    return replace(score, findings={**score.findings, "segmenter": finding(marked, truth.lesion_truth)})


def compare_methods(
    predictor: Predictor,
    cases: Sequence[CachedCase],
    yardstick: Yardstick,
    *,
    segmenter: Segmenter | None = None,
    workers: int = 1,
    others: Mapping[str, Predict] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[VolumeScore]]:
    """Predict and score every case with every method.

    Parameters
    ----------
    predictor : Predictor
        The network under test.
    cases : sequence of CachedCase
        Test volumes.
    yardstick : Yardstick
        Controls and detector.
    segmenter : Segmenter, optional
        Marks lesions in the network's output, in that of ``others``, and in the measured DWI.
    workers : int
        Processes for the controls; 1 keeps them in this one.
    others : Mapping[str, callable], optional
        More methods, name -> prediction (S, H, W) in [-1, 1] of a case.
    progress : callable, optional
        Called with (done, total) after each volume.

    Returns
    -------
    dict
        Name of the method -> scores in the order of the cases: the network first, then ``others``, the measured DWI
        and the controls.
    """
    networks: dict[str, Predict] = {NETWORK: predictor.predict_case, **(others or {})}
    methods: dict[str, list[VolumeScore]] = {name: [] for name in (*networks, MEASURED, *yardstick.controls)}
    with _control_scores(yardstick, cases, workers) as controls:
        for number, case in enumerate(cases, start=1):
            truth = yardstick.truth(case)
            for name, predict in networks.items():
                image = predict(case)
                score = truth.score(image, yardstick.bright_level)
                methods[name].append(with_segmenter(score, truth, image, segmenter) if segmenter else score)
            for name, score in next(controls).items():
                marked = segmenter is not None and name == MEASURED
                image = case.target_slices() if marked else np.empty(0, np.float32)
                methods[name].append(with_segmenter(score, truth, image, segmenter) if marked and segmenter else score)
            if progress:
                progress(number, len(cases))
    return methods


def evaluate_cases(
    predict: Predict,
    cases: Sequence[CachedCase],
    progress: Callable[[int, int], None] | None = None,
    *,
    spacing_mm: float = 0.9,
    bright_level: float | None = None,
) -> list[VolumeScore]:
    """Predict and score every case with one method, in order."""
    scores = []
    for number, case in enumerate(cases, start=1):
        scores.append(CaseTruth(case, spacing_mm).score(predict(case), bright_level))
        if progress:
            progress(number, len(cases))
    return scores
