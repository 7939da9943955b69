"""The square that unsupervised segmentation looks at: short side to a length, then the centre.

janghyuncho/PiCIE data/custom_transforms.py:10-23 (train) and data/coco_eval_dataset.py (test).
"""

import numpy as np
from PIL import Image


def resize_center_crop(image: np.ndarray, size: int, labels: bool = False) -> np.ndarray:
    """Resizes so that the short side has `size` pixels, then cuts the central square.

    With Pillow, as the authors, so that test pixels are theirs to the bit (with Pillow 13). The long side is
    rounded down, the first row and column of the square to the nearest, half to even.

    Args:
        image: (h, w, 3) or (h, w) uint8; smaller images are enlarged.
        size: side of the square in pixels.
        labels: take the nearest pixel, for class numbers; else bilinear with antialiasing.

    Returns:
        (size, size, 3) or (size, size) uint8.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    new_height, new_width = int(size * height / short), int(size * width / short)
    method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(image).resize((new_width, new_height), method))
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])
