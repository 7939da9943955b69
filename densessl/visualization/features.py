"""Feature maps as colour: the first three principal components of all locations become red, green, blue.

N images, C channels, (h, w) feature map, S locations of all images together.

One basis and one range serve all images of a model, so that equal colours mean similar features across
photographs. Two models have each their own basis: colours compare within a model only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = 0.02  # share of the locations beyond each end of the colour range: outliers would wash out the rest


@dataclass(frozen=True)
class ColourBasis:
    """An affine map from features to [0, 1] RGB.

    Attributes:
        mean: (C,) of the unit-length features.
        directions: (C, 3) orthonormal.
        low, high: (3,) ends of the range.
    """

    mean: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, feature_map: Tensor) -> Tensor:
        """(C, h, w) -> (h, w, 3) in [0, 1]."""
        rows = locations(feature_map)  # (h*w, C)
        components = (rows - self.mean) @ self.directions  # (h*w, 3)
        colours = ((components - self.low) / (self.high - self.low)).clamp(0, 1)
        return colours.reshape(*feature_map.shape[1:], 3)


def locations(feature_map: Tensor) -> Tensor:
    """(C, h, w) -> (h*w, C) float32 of unit length, as the dense methods compare locations by cosine."""
    return F.normalize(feature_map.float().flatten(1).t(), dim=1)


def fit_colour_basis(feature_maps: Sequence[Tensor]) -> ColourBasis:
    """Principal components of all locations of all maps.

    The sign of a component is free: the entry of largest magnitude is made positive, so that two runs of
    the report show the same colours.

    Args:
        feature_maps: N tensors (C, h, w); sizes may differ, C may not.
    """
    rows = torch.cat([locations(m) for m in feature_maps])  # (S, C)
    mean = rows.mean(dim=0)
    # S is some hundreds, C up to 2048: the thin decomposition of the rows is cheaper than a covariance.
    directions = torch.linalg.svd(rows - mean, full_matrices=False)[2][:3].t()  # (C, <=3)
    if directions.shape[1] < 3:  # fewer locations or channels than colours: the others stay constant
        directions = F.pad(directions, (0, 3 - directions.shape[1]))
    largest = directions.abs().argmax(dim=0, keepdim=True)
    sign = torch.sign(directions.gather(0, largest))
    directions = directions * torch.where(sign == 0, torch.ones_like(sign), sign)
    components = (rows - mean) @ directions  # (S, 3)
    low, high = torch.quantile(components, torch.tensor([CLIP, 1 - CLIP]), dim=0)
    # A component without spread would divide by zero; it becomes a constant mid tone.
    flat = (high - low) < 1e-6
    low, high = torch.where(flat, low - 0.5, low), torch.where(flat, low + 0.5, high)
    return ColourBasis(mean, directions, low, high)


def colour_maps(feature_maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Feature maps drawn at the size of their photographs, with one basis for all.

    Args:
        feature_maps: N tensors (C, h, w).
        sizes: N pairs (height, width) in pixels.

    Returns:
        N arrays (height, width, 3) uint8 RGB, bilinear between the cells.
    """
    basis = fit_colour_basis(feature_maps)
    drawings = []
    for feature_map, (height, width) in zip(feature_maps, sizes):
        colours = (basis(feature_map) * 255).round().to(torch.uint8).cpu().numpy()  # (h, w, 3)
        drawings.append(cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR))
    return drawings
