"""Square crop, resize and mirror of a batch on its device, with other parameters for each image.

PiCIE's equivariance (https://arxiv.org/abs/2103.17070, section 3.2; janghyuncho/PiCIE
data/custom_transforms.py:207-270): the same crop is cut from the image before the network and from the
features after it. The authors crop and resize image by image in a loop; this is one `grid_sample`.

Layout of the parameters of one image, float64 of length 4: the side of the crop as a share of the map's, the
place of its top and of its left edge as shares of what is left over, and 1 where mirrored (else 0). N images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_boxes(params: Tensor, size: int) -> Tensor:
    """Boxes in whole pixels of a square map: side int(scale * size), edges round((size - side) * share).

    Args:
        params: (N, 4) float64.
        size: height and width of the map.

    Returns:
        (N, 3) float64: top, left and side.
    """
    side = torch.floor(params[:, 0] * size)
    edges = torch.round((size - side)[:, None] * params[:, 1:3])  # half to even, as python's round
    return torch.cat([edges, side[:, None]], dim=1)


def crop_flip(maps: Tensor, boxes: Tensor, flip: Tensor, size: int, within_box: bool = True) -> Tensor:
    """Cuts a square out of each map, resizes it bilinearly without antialiasing, and mirrors it.

    Args:
        maps: (N, C, H, W) floating point.
        boxes: (N, 3) top, left, side in pixels of the maps; fractions are allowed.
        flip: (N,) non-zero where left and right change places.
        size: height and width of the result.
        within_box: near the edge of the box repeat its outermost pixels, as resizing a crop does; boxes are
            then in whole pixels. False: the pixels around the box count as well, and only the edge of the
            map is repeated; this keeps the exact place of each result.

    Returns:
        (N, C, size, size) float32, or float64 for such maps.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    height, width = maps.shape[-2:]
    top, left, side = boxes.to(maps.device, torch.float64).split(1, dim=1)  # (N, 1) each
    share = (torch.arange(size, dtype=torch.float64, device=maps.device) + 0.5) / size
    inside = side * share  # (N, size): centres of the result, from the edge of the box
    if within_box:
        inside = inside.clamp(min=0.5).minimum(side - 0.5)
    mirrored = torch.where(flip.to(maps.device)[:, None] != 0, inside.flip(1), inside)
    y = 2.0 * (top + inside) / height - 1.0
    x = 2.0 * (left + mirrored) / width - 1.0
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(maps, grid.to(maps.dtype), padding_mode="border", align_corners=False)
