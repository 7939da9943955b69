"""The VOC07 linear and low-shot SVM benchmark from features to a table; restartable class by class."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densessl.data.datasets.voc_classification import VOCLabels
from densessl.errors import ConfigError, DataError
from densessl.evaluation.linear_svm import COST_GRIDS, normalise_features, score_class, usable_classes
from densessl.evaluation.low_shot_svm import SAMPLES, SHOTS, low_shot_ap, low_shot_labels
from densessl.evaluation.stage_features import StageFeatures, require_facts, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SVMOptions:
    """What changes the numbers.

    Args:
        costs: name in `COST_GRIDS`.
        difficult: "drop" or "negative", see `linear_svm.training_rows`.
        low_shot_cost: "cross_validation" or "test", see `low_shot_svm`.
        shots: values of k; empty leaves low shot out.
        samples: low-shot samples per k.
        seed: of LIBLINEAR and of the samples.

    Raises:
        ConfigError: a name that is not known.
    """

    costs: str = "openselfsup"
    difficult: str = "drop"
    low_shot_cost: str = "cross_validation"
    shots: tuple[int, ...] = SHOTS
    samples: int = SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("costs", tuple(COST_GRIDS)),
            ("difficult", ("drop", "negative")),
            ("low_shot_cost", ("cross_validation", "test")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"SVM benchmark: {name}={getattr(self, name)!r}; use {' or '.join(known)}.")


def run_benchmark(
    features: StageFeatures,
    train: VOCLabels,
    test: VOCLabels,
    output: Path,
    options: SVMOptions,
    jobs: int = 1,
) -> dict[str, Any]:
    """Extracts, trains and scores; writes `results.json` and `results.md` below `output`.

    Args:
        features: of the model under test.
        train, test: labels of the two splits.
        output: folder; partial results lie in `svm/<stage>/`, one file per class or k.
        options: what changes the numbers.
        jobs: processes for the SVMs. No effect on the numbers.

    Returns:
        {stage: {"mAP": percent, "classes": {name: ...}, "low_shot": {k: ...}}}, "left_out": class names, and
        "options".

    Raises:
        DataError: splits with other classes than each other, no class with enough images, a disk that is
            full.
        ConfigError: `output` holds results of other options.
    """
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"class files of one split only: {', '.join(differing)}")
    columns = usable_classes(train.labels, test.labels)
    names = [train.classes[column] for column in columns]
    left_out = [name for name in train.classes if name not in names]
    if left_out:
        logger.warning("Classes with too few images, left out: %s", ", ".join(left_out))
    labels = {"train": train.labels[:, columns], "test": test.labels[:, columns]}
    for k in options.shots:
        low_shot_labels(labels["train"], k, 0, names=names)  # before hours of work
    for split, content in (("train", train), ("test", test)):
        features.extract(split, content.records())
    results: dict[str, Any] = {}
    for stage in features.stages:
        folder = output / "svm" / stage
        facts = asdict(options) | {"classes": names}
        del facts["shots"]  # they may be added to from run to run
        require_facts(folder, facts)
        normalised = {
            split: normalise_features(features.load(split, stage, len(values)))
            for split, values in labels.items()
        }
        results[stage] = _score_stage(normalised, labels, names, folder, options, jobs)
        logger.info("%s: mAP %.2f", stage, results[stage]["mAP"])
    summary = {"results": results, "left_out": left_out, "options": asdict(options)}
    _write_json(output / "results.json", summary)
    text = results_table(results, options)
    write_atomically(output / "results.md", lambda file: file.write(text.encode()))
    return summary


def _score_stage(
    features: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    names: Sequence[str],
    folder: Path,
    options: SVMOptions,
    jobs: int,
) -> dict[str, Any]:
    """Both benchmarks on one stage; `features` and `labels` have "train" and "test", (N, D) and (N, K)."""
    costs, (x, y) = COST_GRIDS[options.costs], (features["train"], features["test"])

    def linear(c: int) -> dict[str, Any]:
        own = labels["train"][:, c], labels["test"][:, c]
        return asdict(score_class(x, own[0], y, own[1], costs, options.difficult, options.seed, jobs))

    def low_shot(k: int) -> dict[str, Any]:
        chosen = {"choose": options.low_shot_cost, "samples": options.samples, "seed": options.seed}
        return low_shot_ap(x, labels["train"], y, labels["test"], costs, k, **chosen, jobs=jobs)

    classes = {n: _cached(folder / f"class_{n}.json", linear, c) for c, n in enumerate(names)}
    stuck = [name for name, result in classes.items() if not result["converged"]]
    if stuck:
        logger.warning("LIBLINEAR stopped at its limit of iterations for: %s", ", ".join(stuck))
    shots = {k: _cached(folder / f"low_shot_k{k}.json", low_shot, k) for k in options.shots}
    mean = 100.0 * float(np.mean([result["ap"] for result in classes.values()]))
    return {"mAP": mean, "classes": classes, "low_shot": shots}


def _cached(path: Path, compute: Callable[[int], dict[str, Any]], argument: int) -> dict[str, Any]:
    """What `path` holds, or what `compute(argument)` gives, which is written there."""
    if path.exists():
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}. Remove it and run again") from error
    result = compute(argument)
    _write_json(path, result)
    return result


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1).encode()
    write_atomically(path, lambda file: file.write(text))


def results_table(results: dict[str, Any], options: SVMOptions) -> str:
    """Markdown: a row per stage, mAP and low-shot mean ± deviation over the samples, in percent."""
    header = ["features", "mAP", *(f"k={k}" for k in options.shots)]
    rows = []
    for stage, result in results.items():
        cells = [f"{100 * r['mean']:.2f} ± {100 * r['std']:.2f}" for r in result["low_shot"].values()]
        rows.append([stage, f"{result['mAP']:.2f}", *cells])
    lines = [header, ["---"] * len(header), *rows]
    notes = (
        f"Linear SVM on frozen features, AP without the 11-point rule. Costs: {options.costs}, chosen by "
        f"3-fold cross-validation; difficult images in training: {options.difficult}; low shot: "
        f"{options.samples} samples, cost chosen by {options.low_shot_cost}; seed {options.seed}."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{notes}\n"
