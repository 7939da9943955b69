"""Which grid cells of SOLOv2 predict which instance.

"SOLO: Segmenting Objects by Locations" (https://arxiv.org/abs/1912.04488), "Label Assignment", and "SOLOv2"
(https://arxiv.org/abs/2003.10152); authors' code aim-uofa/AdelaiDet,
adet/modeling/solov2/solov2.py (get_ground_truth_single). Letters: G instances of an image, L levels, S cells
per side, P cells of all levels (level by level, row-major), M positives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from densessl.errors import ConfigError


class SOLOv2Targets(NamedTuple):
    """Targets of one image.

    Attributes:
        category: (P,) int64 class of each cell, the number of classes where there is none. Where two
            instances meet in a cell, the later one's.
        cell: (M,) int64 in [0, P), positives by level and instance; such a cell is there twice, and its
            kernel has to produce both masks.
        instance: (M,) int64 in [0, G), the mask of each positive.
        masks: (G, H / 4, W / 4) bool, at the size of the mask features.
    """

    category: Tensor
    cell: Tensor
    instance: Tensor
    masks: Tensor


@torch.no_grad()
def assign_targets(
    instances: Instances,
    *,
    feature_size: tuple[int, int],
    stride: int,
    num_classes: int,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    sigma: float,
) -> SOLOv2Targets:
    """Assigns each instance to the cells around its centre of mass, on the levels for its size.

    A level takes instances whose box has sqrt(width * height) within its range, both ends included; ranges
    overlap. There, the cells are those that the box shrunk by sigma around the centre of mass touches, at
    most the 3x3 around the centre's cell. Grids span the padded image. An instance without pixels has none.

    One wait for the device per image (the number of positives); the authors' code has six per instance and
    level, and resizes on the CPU. Sums of pixels are exact here and float32 there.

    Args:
        instances: detectron2's, of an image in network pixels: gt_boxes (XYXY, absolute), gt_classes,
            gt_masks as bitmasks. The last may be absent when there are none.
        feature_size: height and width of the mask features.
        stride: of the mask features in the padded image.
        num_classes: what marks a cell without instance.
        num_grids: S of each level.
        scale_ranges: smallest and largest size in pixels for each level.
        sigma: side of the centre region, as a share of the box's.

    Raises:
        ConfigError: polygons instead of bitmasks.
    """
    total = sum(size * size for size in num_grids)
    classes = instances.gt_classes
    if len(instances) == 0:
        none = classes.new_zeros(0)
        masks = torch.zeros(0, *feature_size, dtype=torch.bool, device=classes.device)
        return SOLOv2Targets(classes.new_full((total,), num_classes), none, none, masks)
    if not isinstance(instances.gt_masks, BitMasks):
        raise ConfigError(
            f"SOLOv2 takes bitmasks and got {type(instances.gt_masks).__name__}; set "
            'dataloader.train.mapper.instance_mask_format="bitmask".'
        )
    masks = instances.gt_masks.tensor
    x, y, area = _centres_of_mass(masks)
    width, height = (instances.gt_boxes.tensor[:, 2:] - instances.gt_boxes.tensor[:, :2]).unbind(1)
    size = (width * height).sqrt()
    padded_height, padded_width = (side * stride for side in feature_size)

    cells, valid, offset = [], [], 0
    for grid, (smallest, largest) in zip(num_grids, scale_ranges, strict=True):
        rows, in_rows = _cells_around(y, 0.5 * height * sigma, padded_height, grid)
        columns, in_columns = _cells_around(x, 0.5 * width * sigma, padded_width, grid)
        taken = (size >= smallest) & (size <= largest) & (area > 0)  # (G,)
        cells.append(offset + rows[:, :, None] * grid + columns[:, None, :])  # (G, 3, 3)
        valid.append(taken[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :])
        offset += grid * grid
    found = torch.stack(valid).nonzero().unbind(1)  # (M,) indices of level, instance, row, column
    cell, instance = torch.stack(cells)[found], found[1]
    # the last instance of a cell wins; -1, no instance, reads the entry behind the classes
    owner = cell.new_full((total,), -1).scatter_reduce(0, cell, instance, "amax")
    category = torch.cat([classes, classes.new_full((1,), num_classes)])[owner]
    return SOLOv2Targets(category, cell, instance, resize_masks(masks, feature_size, stride))


def resize_masks(masks: Tensor, feature_size: tuple[int, int], stride: int) -> Tensor:
    """Bilinear at round(side / stride), true from one half on; then padded at the right and below.

    As cv2.resize of the authors for sides that `stride` divides. For others cv2's integers truncate the share
    of each row to quarters, so that a value between 0.5 and 0.75 may end as 0: one pixel in a thousand.

    Args:
        masks: (G, H, W) bool, image without padding.
        feature_size: height and width of the result, at least those of the resized masks.
        stride: divisor of both sides.

    Returns:
        (G, *feature_size) bool.
    """
    height, width = (int(side / stride + 0.5) for side in masks.shape[1:])
    above, below, down = _bilinear(masks.shape[1], height, masks.device)
    left, right, across = _bilinear(masks.shape[2], width, masks.device)
    # gathers of a sixteenth of the pixels: no full-size float copy
    upper, lower = (
        torch.lerp(masks[:, rows][:, :, left].float(), masks[:, rows][:, :, right].float(), across)
        for rows in (above, below)
    )
    resized = masks.new_zeros(len(masks), *feature_size)
    resized[:, :height, :width] = torch.lerp(upper, lower, down[:, None]) >= 0.5
    return resized


def _bilinear(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of both neighbours, and the second's weight, for each of `after` samples of `before` pixels."""
    position = ((torch.arange(after, device=device) + 0.5) * (before / after) - 0.5).clamp(0, before - 1)
    first = position.floor()
    return first.long(), (first.long() + 1).clamp(max=before - 1), position - first


def _centres_of_mass(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(G, H, W) bool -> (G,) x and y in pixel indices, and the number of pixels."""
    columns, rows = masks.sum(1), masks.sum(2)  # (G, W), (G, H) counts
    area = rows.sum(1)
    count = area.clamp(min=1).float()
    x = (columns * torch.arange(columns.shape[1], device=masks.device)).sum(1).float() / count
    y = (rows * torch.arange(rows.shape[1], device=masks.device)).sum(1).float() / count
    return x, y, area


def _cells_around(centre: Tensor, half: Tensor, length: int, grid: int) -> tuple[Tensor, Tensor]:
    """Cells of one axis that [centre - half, centre + half] touches, of the three around the centre's.

    Args:
        centre, half: (G,) in pixels.
        length: of the axis in pixels.
        grid: its number of cells.

    Returns:
        (G, 3) cell indices, and which of them count.
    """

    def cell(position: Tensor) -> Tensor:
        # floor division by 1 / grid, not floor(grid * x): at the border of two cells they differ by rounding
        return torch.div(position / length, 1.0 / grid, rounding_mode="floor").long()

    index = cell(centre)[:, None] + torch.arange(-1, 2, device=centre.device)
    first, last = cell(centre - half).clamp(min=0), cell(centre + half).clamp(max=grid - 1)
    return index, (index >= first[:, None]) & (index <= last[:, None])
