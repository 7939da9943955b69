"""Label images: one class number per pixel."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from densessl.data.decode import printable
from densessl.errors import DataError


def decode_labels(
    path: str,
    size: tuple[int, int] | None = None,
    map_labels: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Reads a label image: gray values, or the indices of a palette, as they are stored.

    Args:
        path: the file.
        size: (h, w) that it must have; None: any.
        map_labels: from stored values to classes.

    Returns:
        (h, w) uint8.

    Raises:
        DataError: missing, damaged, in colour or with 16 bits, of another size, or with unknown values.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"labels {printable(path)}: mode {image.mode}; a label image has 8 bits per pixel, gray "
                    "or with a palette. Colour pictures of labels do not hold class numbers"
                )
            labels = np.array(image, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read labels {printable(path)}: {error}") from error
    if size is not None and labels.shape != tuple(size):
        raise DataError(
            f"labels {printable(path)} are {labels.shape}, the image is {tuple(size)} (h, w); are they of "
            "another release, or was one resized?"
        )
    if map_labels is None:
        return labels
    try:
        return map_labels(labels)
    except DataError as error:
        raise DataError(f"labels {printable(path)}: {error}") from error
