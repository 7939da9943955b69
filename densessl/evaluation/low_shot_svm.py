"""Linear SVMs trained on k positive images per class.

The low-shot half of the VOC07 benchmark: https://arxiv.org/abs/1905.01235 section 6.2, WXinlong/DenseCL
benchmarks/svm_tools/{train_svm_low_shot,test_svm_low_shot,aggregate_low_shot_svm_stats}.py, samples as
facebookresearch/fair_self_supervision_benchmark extra_scripts/create_voc_low_shot_challenge_samples.py draws
them: for each class k positives and 19 k negatives ((K - 1) k of the K classes), the rest ignored, five
times.

The originals choose the cost by the mean AP on the **test** images, one cost per k. `choose="test"`
reproduces that, for comparison with published figures. The default chooses per class and sample by
cross-validation on the sample itself, with min(3, k) folds; at k = 1 there is nothing to validate on, and the
cost is 1, the first of the originals' grid. Letters: N images, D dimensions, K classes.
"""

from collections.abc import Sequence

import numpy as np
from joblib import Parallel, delayed

from densessl.data.datasets.voc_classification import ABSENT, IGNORED, PRESENT
from densessl.errors import DataError
from densessl.evaluation.linear_svm import FOLDS, average_precision, cross_validate, fit, training_rows

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
SAMPLES = 5
COST_OF_ONE_SHOT = 1.0


def low_shot_labels(
    labels: np.ndarray, k: int, sample: int, seed: int = 0, names: Sequence[str] | None = None
) -> np.ndarray:
    """Labels of one low-shot sample: k positives and (K - 1) k negatives of each class, all others ignored.

    Args:
        labels: (N, K) 1, 0, -1.
        k: positives per class.
        sample: number of the sample.
        seed: samples are a function of (seed, sample, k). The published ones came from an unseeded generator.
        names: of the classes, for messages.

    Returns:
        int8 (N, K).

    Raises:
        DataError: a class has fewer images than that.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, sample, k))))
    num_classes = labels.shape[1]
    chosen = np.full(labels.shape, IGNORED, np.int8)
    for column in range(num_classes):
        for value, count in ((PRESENT, k), (ABSENT, (num_classes - 1) * k)):
            rows = np.flatnonzero(labels[:, column] == value)
            if len(rows) < count:
                what = "show" if value == PRESENT else "do not show"
                raise DataError(
                    f"low shot k = {k} takes {count} images that {what} class "
                    f"{names[column] if names else column}, and there are {len(rows)}: leave that k out "
                    "(--shots)"
                )
            chosen[generator.permutation(rows)[:count], column] = value
    return chosen


def sample_ap(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    costs: Sequence[float],
    k: int,
    choose: str,
    seed: int = 0,
) -> list[float]:
    """AP of one class on one sample.

    Args:
        train, test: normalised features (N, D).
        train_labels: (N,) of the sample; test_labels: (N,).
        choose: "cross_validation": one number; "test": one for each cost, for `low_shot_ap` to choose from.
    """
    rows, targets = training_rows(train_labels)
    chosen = train[rows]
    if choose == "cross_validation":
        costs = [_validated_cost(chosen, targets, costs, k, seed)]
    return [
        average_precision(test_labels, fit(chosen, targets, cost, seed)[0].decision_function(test))
        for cost in costs
    ]


def _validated_cost(
    features: np.ndarray, targets: np.ndarray, costs: Sequence[float], k: int, seed: int
) -> float:
    if k == 1:
        return COST_OF_ONE_SHOT
    folds = min(FOLDS, k)
    return costs[int(np.argmax([cross_validate(features, targets, cost, folds, seed) for cost in costs]))]


def low_shot_ap(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    costs: Sequence[float],
    k: int,
    *,
    choose: str = "cross_validation",
    samples: int = SAMPLES,
    seed: int = 0,
    jobs: int = 1,
) -> dict[str, float | list[float] | None]:
    """Mean AP over classes for one k, over the samples.

    Args:
        train, test: normalised features (N, D) float64.
        train_labels, test_labels: (N, K).
        costs: the grid.
        k: positives per class.
        choose: "cross_validation" or "test", see above.
        samples: how many.
        seed: of the samples and of LIBLINEAR.
        jobs: processes over the classes.

    Returns:
        "mean", "std" (over samples, n in the denominator, as the originals), "min", "max" in [0, 1];
        "samples", the mean AP of each; "cost", with choose = "test" the one chosen, else None.
    """
    means = []
    for sample in range(samples):
        labels = low_shot_labels(train_labels, k, sample, seed)
        per_class = Parallel(n_jobs=jobs)(
            delayed(sample_ap)(train, labels[:, c], test, test_labels[:, c], costs, k, choose, seed)
            for c in range(labels.shape[1])
        )
        means.append(np.mean(per_class, axis=0))  # one, or one for each cost
    table = np.stack(means)  # (samples, costs or 1)
    best = int(np.argmax(table.mean(axis=0)))
    column = table[:, best]
    return {
        "mean": float(column.mean()),
        "std": float(column.std()),
        "min": float(column.min()),
        "max": float(column.max()),
        "samples": column.tolist(),
        "cost": float(costs[best]) if choose == "test" else None,
    }
