"""Dense correspondence between the two pictures of a stereo pair, against true disparity.

Convention of datasets/prepare_stereo.py: what the left picture shows at (x, y), the right one shows at
(x - disparity, y). Points and cells as in `densessl.visualization.correspondences`; S = h*w cells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from densessl.visualization.correspondences import cell_centres


def disparity_pairs(map_size: tuple[int, int], disparity: np.ndarray) -> tuple[Tensor, Tensor]:
    """Which cells of the right picture are right for each cell of the left one.

    Right is within one cell of the truth, horizontally and vertically. A cell counts where its centre has a
    known disparity of more than one cell and its partner lies within the right picture: what has hardly
    moved would be found by features that only know where they are.

    Args:
        map_size: (h, w) cells, the same for both pictures.
        disparity: (H, W) float, pixels of the picture; NaN where unknown.

    Returns:
        (S, S) bool, right pairs of left and right cell; (S,) bool, the cells that count.
    """
    height, width = disparity.shape
    centres = cell_centres(map_size, (height, width))  # (S, 2)
    x, y = centres.floor().long().t()
    shift = torch.from_numpy(disparity.astype(np.float64))[y, x]  # (S,)
    cell_width, cell_height = width / map_size[1], height / map_size[0]
    partner = centres[:, 0] - shift
    counted = (shift > cell_width) & (partner >= 0) & (partner <= width)  # NaN is neither
    across = (partner[:, None] - centres[None, :, 0]).abs() / cell_width  # (S, S)
    down = (centres[:, None, 1] - centres[None, :, 1]).abs() / cell_height
    return (across <= 1) & (down <= 1) & counted[:, None], counted
