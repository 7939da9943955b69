"""What retrieval, the linear probe and clustering share: class shares of cells, confusion matrix, mean IoU.

N cells, K classes, P predicted classes or clusters, (h, w) cells of one image.

Every pixel of a cell gets the class predicted for the cell, which is the same as enlarging the predicted map
by nearest neighbour. Papers enlarge class scores bilinearly; here known features must give known numbers, and
no (H, W) map of scores is needed. The finer details of a label map are lost either way: no features reach
100 on labels that change within a cell (`best_miou`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def cell_shares(
    labels: np.ndarray, map_size: tuple[int, int], num_classes: int, ignore: int | None = 255
) -> Tensor:
    """Which share of each cell belongs to each class.

    Args:
        labels: (H, W) integers in [0, K), or `ignore`.
        map_size: (h, w) cells laid over the image.
        num_classes: K.

    Returns:
        (h*w, K) float32, row-major; a row sums to 1, or to less where pixels are ignored.
    """
    (height, width), (rows, columns) = labels.shape, map_size
    row = np.arange(height) * rows // height  # (H,) cell row of each pixel row
    column = np.arange(width) * columns // width  # (W,)
    cell = row[:, None] * columns + column[None]  # (H, W)
    valid = np.ones(labels.shape, bool) if ignore is None else labels != ignore
    index = cell[valid] * num_classes + labels[valid].astype(np.int64)
    counts = np.bincount(index, minlength=rows * columns * num_classes).reshape(-1, num_classes)
    sizes = np.bincount(cell.ravel(), minlength=rows * columns)
    return torch.from_numpy((counts / sizes[:, None]).astype(np.float32))


def confusion_matrix(prediction: Tensor, shares: Tensor, num_predicted: int) -> Tensor:
    """How much area of each true class was predicted as each class.

    Args:
        prediction: (N,) int64 in [0, P).
        shares: (N, K) from `cell_shares`.
        num_predicted: P.

    Returns:
        (K, P) float64, in cells.
    """
    matrix = torch.zeros(num_predicted, shares.shape[1], dtype=torch.float64)
    matrix.index_add_(0, prediction, shares.double())
    return matrix.t()


def mean_iou(confusion: Tensor) -> float:
    """Mean over the classes that occur of intersection / union, in percent.

    Args:
        confusion: (K, K), rows are the truth.

    Raises:
        ValueError: nothing is labelled.
    """
    intersection = confusion.diagonal()
    truth, predicted = confusion.sum(1), confusion.sum(0)
    occurs = truth > 0
    if not occurs.any():
        raise ValueError("no labelled cell: a mean IoU needs one")
    return 100.0 * float((intersection / (truth + predicted - intersection))[occurs].mean())


def best_miou(shares: Tensor) -> float:
    """The mean IoU of the largest class of each cell, in percent: what perfect features would reach."""
    return mean_iou(confusion_matrix(shares.argmax(1), shares, shares.shape[1]))
