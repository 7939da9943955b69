"""Linear SVMs on frozen features, one per class, and their average precision.

The VOC07 classification benchmark of "Scaling and Benchmarking Self-Supervised Visual Representation
Learning" (https://arxiv.org/abs/1905.01235) as OpenSelfSup and DenseCL run it: WXinlong/DenseCL
benchmarks/svm_tools/{svm_helper,train_svm_kfold,test_svm}.py. Letters: N images, D dimensions, K classes.
Labels are 1 present, 0 absent, -1 ignored (densessl/data/datasets/voc_classification.py).

Differences from the originals: images that are ignored for a class do not train its SVM; there they are
negatives, which `difficult="negative"` reproduces (both leave them out of the test). LIBLINEAR's random order
is seeded. A class without a positive or negative image is left out and named, instead of AP NaN.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from densessl.data.datasets.voc_classification import IGNORED, PRESENT
from densessl.errors import DataError

COST_GRIDS = {
    # eval_svm_full.sh and svm_helper.py (parse_cost_list): three costs, then 0.5^4 .. 0.5^19
    "openselfsup": (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20))),
    # facebookresearch/vissl configs/config/benchmark/linear_image_classification/voc07
    "vissl": (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
}
FOLDS = 3
MAX_ITER = 2000


@dataclass(frozen=True)
class ClassResult:
    """What one class's SVM reached.

    Args:
        ap: average precision on the test images, in [0, 1].
        cost: C chosen.
        validation: AP in cross-validation, for each cost of the grid.
        converged: whether LIBLINEAR reached its tolerance with that cost.
    """

    ap: float
    cost: float
    validation: list[float]
    converged: bool


def normalise_features(features: np.ndarray) -> np.ndarray:
    """f / (|f| + 1e-5) for each row, float64 (N, D)."""
    features = np.asarray(features, np.float64)
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve with precision made non-increasing; no 11-point rule.

    Args:
        labels: (N,) 1 present, 0 absent, -1 ignored: left out.
        scores: (N,); equal ones rank in the order of the images.

    Returns:
        AP in [0, 1]; NaN without a positive.
    """
    kept = labels != IGNORED
    positive = labels[kept] == PRESENT
    if not positive.any():
        return float("nan")
    hits = positive[np.argsort(-np.asarray(scores)[kept], kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # recall rises by 1 / positives at each hit
    return float(envelope[hits].sum() / positive.sum())


def make_svm(cost: float, seed: int = 0) -> LinearSVC:
    """The originals' classifier: L2 penalty, squared hinge, positives weigh twice (train_svm_kfold.py)."""
    return LinearSVC(
        C=cost,
        class_weight={1: 2, -1: 1},
        intercept_scaling=1.0,
        penalty="l2",
        loss="squared_hinge",
        tol=1e-4,
        dual=True,
        max_iter=MAX_ITER,
        random_state=seed,
    )


def training_rows(labels: np.ndarray, difficult: str = "drop") -> tuple[np.ndarray, np.ndarray]:
    """Rows that train one class's SVM, and their targets 1 and -1.

    Args:
        labels: (N,) of the class.
        difficult: "drop" leaves out ignored images, "negative" takes them as negatives.
    """
    rows = np.flatnonzero(labels != IGNORED) if difficult == "drop" else np.arange(len(labels))
    return rows, np.where(labels[rows] == PRESENT, 1, -1)


def cross_validate(
    features: np.ndarray, targets: np.ndarray, cost: float, folds: int = FOLDS, seed: int = 0
) -> float:
    """Mean AP over stratified folds, in the order of the images (scikit-learn's `average_precision`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported for the chosen cost
        scores = cross_val_score(
            make_svm(cost, seed), features, targets, cv=folds, scoring="average_precision"
        )
    return float(scores.mean())


def fit(features: np.ndarray, targets: np.ndarray, cost: float, seed: int = 0) -> tuple[LinearSVC, bool]:
    """Trains on all rows; returns the SVM and whether it converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make_svm(cost, seed).fit(features, targets)
    return model, int(np.max(model.n_iter_)) < MAX_ITER


def score_class(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    costs: Sequence[float],
    difficult: str = "drop",
    seed: int = 0,
    jobs: int = 1,
) -> ClassResult:
    """Chooses the cost of one class by cross-validation on `train`, trains with it, scores `test`.

    Args:
        train, test: normalised features (N, D) float64.
        train_labels, test_labels: (N,) of the class.
        costs: the grid; of equal AP the first wins.
        difficult: see `training_rows`.
        seed: of LIBLINEAR.
        jobs: processes over the costs.
    """
    rows, targets = training_rows(train_labels, difficult)
    chosen = train[rows]
    validation = Parallel(n_jobs=jobs)(
        delayed(cross_validate)(chosen, targets, cost, seed=seed) for cost in costs
    )
    cost = costs[int(np.argmax(validation))]
    model, converged = fit(chosen, targets, cost, seed)
    ap = average_precision(test_labels, model.decision_function(test))
    return ClassResult(ap, cost, list(validation), converged)


def usable_classes(train_labels: np.ndarray, test_labels: np.ndarray, least: int = FOLDS) -> list[int]:
    """Columns with at least `least` positives and negatives to train on, and one positive to test.

    Args:
        train_labels, test_labels: (N, K).

    Raises:
        DataError: there is none, or the matrices have different numbers of classes.
    """
    if train_labels.shape[1] != test_labels.shape[1]:
        raise DataError(
            f"{train_labels.shape[1]} classes to train and {test_labels.shape[1]} to test: both splits need "
            "the same class files"
        )
    usable = [
        k
        for k in range(train_labels.shape[1])
        if (train_labels[:, k] == PRESENT).sum() >= least
        and (train_labels[:, k] == 0).sum() >= least
        and (test_labels[:, k] == PRESENT).any()
    ]
    if not usable:
        raise DataError(
            f"no class has {least} images that show it and {least} that do not to train on, and one to test"
        )
    return usable
