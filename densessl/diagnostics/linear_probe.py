"""Linear segmentation probe in closed form: ridge regression from cell features to class shares.

The usual probe (a 1x1 convolution trained by SGD on a frozen trunk) has a learning rate to tune and noise of
its own; the least-squares one has neither, gives the same digits every time and takes a fraction of a second.
C channels, K classes, n labelled cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from densessl.diagnostics.segmentation import confusion_matrix, mean_iou

RIDGE = 1e-2  # times the mean variance of a channel: scales with the features


def fit_ridge(features: Tensor, shares: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Minimises sum_i |s_i - W (x_i - m) - b|^2 + n * ridge * v * |W|^2, v the mean variance of a channel.

    Solved on the smaller side, channels or cells (the two forms are equal).

    Args:
        features: (n, C).
        shares: (n, K) targets.

    Returns:
        weight (K, C) and bias (K,), float64, of `features @ weight.T + bias`.
    """
    x, y = features.double(), shares.double()
    mean, target = x.mean(0), y.mean(0)
    x, y = x - mean, y - target
    penalty = ridge * x.square().sum() / x.shape[1]
    penalty = penalty.clamp(min=torch.finfo(torch.float64).tiny)  # constant features: the bias alone
    if x.shape[1] <= x.shape[0]:
        weight = torch.linalg.solve(_damped(x.t() @ x, penalty), x.t() @ y).t()
    else:
        weight = (x.t() @ torch.linalg.solve(_damped(x @ x.t(), penalty), y)).t()
    return weight, target - weight @ mean


def _damped(gram: Tensor, penalty: Tensor) -> Tensor:
    return gram + penalty * torch.eye(len(gram), dtype=gram.dtype)


def linear_miou(
    train: Tensor, train_shares: Tensor, test: Tensor, test_shares: Tensor, ridge: float = RIDGE
) -> float:
    """Mean IoU in percent, on the test cells, of the probe fitted on the training cells.

    Args:
        train, test: (n, C) features; train_shares, test_shares: (n, K) class shares.
    """
    labelled = train_shares.sum(1) > 0
    weight, bias = fit_ridge(train[labelled], train_shares[labelled], ridge)
    prediction = (test.double() @ weight.t() + bias).argmax(1)
    return mean_iou(confusion_matrix(prediction, test_shares, test_shares.shape[1]))
