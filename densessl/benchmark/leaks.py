"""Finds validation pictures among training pictures: by path, and by a perceptual hash.

The hash survives re-encoding, resizing and small changes of brightness; crops, mirror images and rotations
are other pictures to it. Two steps:

1. dHash and aHash on 8 x 8 grey, 128 bits: "Looks Like It" (N. Krawetz, hackerfactor.com, 2011 and 2013).
   dHash: is each cell of a 9 x 8 grid brighter than its left neighbour; aHash: is each cell of an 8 x 8 grid
   brighter than their mean. Pairs within MAX_BITS of 128 go on.
2. The pair's 16 x 16 RGB thumbnails differ by less than MAX_LEVELS of 255 on average. Dark or plain pictures
   agree in many bits by chance; this tells them apart.

Measured on the 100 tiles of `coral` and 15 photographs of scikit-image: 34 bits at least between different
pictures (6555 pairs); 10 at most between a picture and its copies (JPEG quality 10, half size, 100 x 80
pixels, 10 % brighter), with thumbnails 21 levels apart at most. On `cutpaste` 30 at least between training
and validation pictures (18,000 pairs), 23 between training pictures, which share backgrounds (44,850 pairs).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import path

import cv2
import numpy as np

from densessl.data.decode import decode_image
from densessl.errors import DataError

MAX_BITS = 16
MAX_LEVELS = 24.0
_BLOCK = 4096  # pairs of hashes compared at once: _BLOCK x validation images
_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
_MAX_NAMED = 5


@dataclass(frozen=True)
class Leak:
    """A validation picture that was found among the training pictures."""

    training: str
    validation: str
    how: str


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """dHash, then aHash, of an RGB uint8 (H, W, 3) image: (16,) uint8, 128 bits."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    wide = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)  # (8 rows, 9)
    square = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.concatenate([(wide[:, 1:] > wide[:, :-1]).ravel(), (square > square.mean()).ravel()])
    return np.packbits(bits)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of different bits between hashes (N, 16) and (M, 16): (N, M) int64."""
    return _BITS[first[:, None] ^ second[None]].sum(-1, dtype=np.int64)


def thumbnail_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference, in [0, 255], of the 16 x 16 thumbnails of two RGB images of any size."""
    small = [
        cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64) for p in (first, second)
    ]
    return float(np.abs(small[0] - small[1]).mean())


def find_leaks(training: Iterable[dict], validation: Sequence[dict]) -> list[Leak]:
    """Compares every training picture with every validation picture.

    Args:
        training: records of an image source (`file_name`, or `image_bytes` as well).
        validation: detectron2 records.

    Raises:
        DataError: a picture cannot be read.
    """
    by_path = {path.realpath(record["file_name"]): record["file_name"] for record in validation}
    hashes = np.stack([_hash(record) for record in validation])
    leaks: list[Leak] = []
    block: list[tuple[dict, np.ndarray]] = []
    for record in training:
        same = by_path.get(path.realpath(record["file_name"]))
        if same is not None and "image_bytes" not in record:
            leaks.append(Leak(record["file_name"], same, "the same file"))
            continue
        block.append((record, _hash(record)))
        if len(block) == _BLOCK:
            leaks += _similar(block, validation, hashes)
            block = []
    return leaks + _similar(block, validation, hashes)


def refuse_leaks(what: str, training: Iterable[dict], validation: Sequence[dict]) -> None:
    """Raises DataError, naming both files, if a validation picture is among the training pictures.

    Args:
        what: the training pictures' name in the message.
    """
    leaks = find_leaks(training, validation)
    if leaks:
        told = "; ".join(f"{leak.training} is {leak.validation} ({leak.how})" for leak in leaks[:_MAX_NAMED])
        more = f" and {len(leaks) - _MAX_NAMED} more" if len(leaks) > _MAX_NAMED else ""
        raise DataError(
            f"{what}: {len(leaks)} of its pictures are in the validation set: {told}{more}. Take them out, "
            "or evaluate on others."
        )


def _hash(record: dict) -> np.ndarray:
    return perceptual_hash(decode_image(record, min_size=128))


def _similar(
    block: Sequence[tuple[dict, np.ndarray]], validation: Sequence[dict], hashes: np.ndarray
) -> list[Leak]:
    if not block:
        return []
    bits = distances(np.stack([value for _, value in block]), hashes)
    leaks = []
    for i, j in zip(*np.nonzero(bits <= MAX_BITS)):
        record, other = block[i][0], validation[j]
        levels = thumbnail_difference(*(decode_image(r, min_size=128) for r in (record, other)))
        if levels < MAX_LEVELS:
            how = f"{bits[i, j]} of 128 hash bits and {levels:.1f} of 255 grey levels apart"
            leaks.append(Leak(record["file_name"], other["file_name"], how))
    return leaks
