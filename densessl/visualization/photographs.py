"""The photographs that pictures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from densessl.data.decode import decode_image
from densessl.errors import ConfigError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Photograph:
    """Attributes:
    name: short, for captions.
    image: (H, W, 3) uint8 RGB.
    """

    name: str
    image: np.ndarray


def read_photograph(path: str | Path) -> Photograph:
    """Reads an image file; raises DataError where it cannot be read."""
    return Photograph(Path(path).name, decode_image(path))


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files as given, folders as the sorted images in them and below.

    Raises:
        ConfigError: a path does not exist, or a folder has no image.
    """
    found = []
    for path in map(Path, paths):
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if _is_image(f))
        if not files:
            kind = "has no image in it" if path.is_dir() else "does not exist"
            raise ConfigError(f"images: {str(path)!r} {kind}. Give image files or folders of photographs.")
        found += files
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def spread(items: Sequence, count: int) -> list:
    """At most `count` items, evenly spaced, so that neighbours in a data set do not fill the page."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def resized(image: np.ndarray, long_side: int, multiple: int = 32) -> np.ndarray:
    """A photograph scaled to `long_side` pixels, both sides rounded to whole cells of stride `multiple`."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    size = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)


def shrunk(image: np.ndarray, long_side: int) -> np.ndarray:
    """The image with its longer side at most `long_side` pixels; smaller ones as they are."""
    scale = long_side / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
