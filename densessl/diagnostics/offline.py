"""Diagnostics of finished or running pretrainings, from their directories."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from densessl.diagnostics.features import TrunkFeatures
from densessl.diagnostics.suite import DiagnosticsSuite
from densessl.engine.launch import resolve_device
from densessl.errors import CheckpointError
from densessl.visualization.backbones import FeatureExtractor, pretrained_backbone, untrained_backbone
from densessl.visualization.runs import Run, read_run

_logger = logging.getLogger(__name__)
UNTRAINED = "untrained"


def find_run(path: str) -> Run:
    """The run of a directory, or that of one checkpoint file with this file as its checkpoint.

    Raises:
        CheckpointError: no such file.
        ConfigError: not the directory of a run.
    """
    if Path(path).is_dir():
        return read_run(path, path)
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such run directory or checkpoint.")
    run = read_run(path, Path(path).parent)
    return Run(path, run.path, run.config, run.metrics, Path(path))


def diagnose(
    paths: Sequence[str],
    *,
    feature: str | None = None,
    device: str = "auto",
    untrained: bool = True,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Scores each trunk.

    Args:
        paths: run directories or checkpoints in them.
        feature: output of the backbones; None: that of the pretraining.
        device: auto, cpu or cuda.
        untrained: also score the first run's network as initialised, first.
        options: of `DiagnosticsSuite`.

    Returns:
        {path: {name: number}}, with "seconds" besides the diagnostics.

    Raises:
        DensesslError: a run, data set or option cannot be used.
    """
    place = torch.device(resolve_device(device))
    runs = [find_run(path) for path in paths]
    suite = DiagnosticsSuite(**options)
    trunks = {UNTRAINED: lambda: untrained_backbone(runs[0])} if untrained else {}
    trunks |= {run.name: lambda run=run: pretrained_backbone(run) for run in runs}
    results = {}
    for name, build in trunks.items():
        extract = _trunk_features(build(), feature, place)
        suite.check(extract)
        start = time.perf_counter()
        results[name] = suite(extract)
        results[name]["seconds"] = time.perf_counter() - start
        _logger.info("%s: %.1f s", name, results[name]["seconds"])
    return results


def _trunk_features(trunk: FeatureExtractor, feature: str | None, device: torch.device) -> TrunkFeatures:
    backbone = trunk.backbone.to(device)
    return TrunkFeatures(backbone, feature or trunk.feature, trunk.mean.to(device), trunk.std.to(device))


def format_table(results: dict[str, dict[str, float]]) -> str:
    """One column per trunk, one row per number, as Markdown."""
    from tabulate import tabulate

    names = list(dict.fromkeys(name for found in results.values() for name in found))
    rows = [[name, *(found.get(name) for found in results.values())] for name in names]
    headers = ["", *(_short(path) for path in results)]
    return tabulate(rows, headers, tablefmt="github", floatfmt=".2f", missingval="n/a")


def _short(path: str) -> str:
    """The last two parts of a path."""
    return "/".join(Path(path).parts[-2:])
