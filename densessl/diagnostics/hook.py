"""Diagnostics while a model pretrains."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from densessl.checkpoint.state import collect_rng_state, restore_rng_state
from densessl.diagnostics.features import TrunkFeatures
from densessl.diagnostics.suite import DEFAULT, DiagnosticsSuite
from densessl.errors import ConfigError
from densessl.visualization.curves import Series
from densessl.visualization.health import Facts, judge

_logger = logging.getLogger(__name__)
PREFIX = "diagnostics/"
FEWEST = 50  # logged values of a training metric before it is judged: the first steps are noise


class DiagnosticsHook(HookBase):
    """Scores the trunk's features every `period` iterations, at the start and at the end.

    The numbers go to the event storage as "diagnostics/<name>"; the value at iteration 0 is that of random
    (or initial) weights, against which the later ones are read. After each scoring the rules of
    densessl/visualization/health.py are applied to what has been logged so far, and every problem is logged
    as a warning.

    Nothing notices: the trunk alone runs, in evaluation mode and without gradient, each of its parts gets its
    own mode back, and random states are restored. The hook has no state, so it may be added to or taken from
    a run at a resume. The main process computes; its batch-norm statistics are those that are saved. The
    others wait for it in the next step.

    Args:
        dataset, diagnostics, memory_dataset, num_images, image_size, stereo_dataset, stereo_size: see
            `DiagnosticsSuite`.
        period: iterations, more than `train.log_period`.
        feature: output of the backbone; None: `model.in_feature`, or the last one.

    Raises:
        ConfigError, DataError: see `DiagnosticsSuite`; on every process, before training.
    """

    def __init__(
        self,
        dataset: str,
        diagnostics: Sequence[str] = DEFAULT,
        period: int = 1000,
        memory_dataset: str | None = None,
        num_images: int = 32,
        image_size: int = 224,
        stereo_dataset: str = "stereo",
        stereo_size: int = 768,
        feature: str | None = None,
    ) -> None:
        if period < 1:
            raise ConfigError(f"train.hooks: DiagnosticsHook.period={period} must be at least 1.")
        self._period, self._feature = period, feature
        self._suite = DiagnosticsSuite(
            dataset,
            diagnostics,
            memory_dataset=memory_dataset,
            num_images=num_images,
            image_size=image_size,
            stereo_dataset=stereo_dataset,
            stereo_size=stereo_size,
        )

    def before_train(self) -> None:
        self._extract = TrunkFeatures.of_model(self.trainer.module, self._feature)
        self._suite.check(self._extract)
        log_period = self.trainer.log_period
        if self._period <= log_period:  # the writers keep the last value of a log period
            raise ConfigError(
                f"train.hooks: DiagnosticsHook.period={self._period} must be greater than train.log_period="
                f"{log_period}: the numbers of the start would not be written."
            )
        if self.trainer.start_iter == 0:
            self.score()

    def after_step(self) -> None:
        finished = self.trainer.iter + 1
        if finished % self._period == 0 or finished == self.trainer.max_iter:
            self.score()

    def score(self) -> None:
        """Scores the weights of the moment; the main process only."""
        if not comm.is_main_process():
            return
        start = time.perf_counter()
        state = collect_rng_state()
        found = self._suite(self._extract)
        restore_rng_state(state)
        found["seconds"] = time.perf_counter() - start
        for name, value in found.items():
            self.trainer.storage.put_scalar(PREFIX + name, value, smoothing_hint=False)
        _logger.info("Diagnostics: %s", "  ".join(f"{name} {value:.4g}" for name, value in found.items()))
        for problem in self.problems():
            _logger.warning("%s", problem)

    def problems(self) -> list[str]:
        """What the rules of the report find wrong with the metrics logged so far."""
        metrics = {}
        for name, history in self.trainer.storage.histories().items():
            if len(history.values()) < FEWEST and not name.startswith(PREFIX):
                continue
            values, iterations = np.array(history.values(), np.float64).reshape(-1, 2).T
            metrics[name] = Series(name, iterations.astype(int), values)
        return [verdict.text for verdict in judge(metrics, Facts()) if verdict.level == "bad"]
