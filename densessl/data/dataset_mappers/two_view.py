"""Two augmented views of each image, for MoCo v1/v2, DenseCL and SimSiam, and their batch.

The image is decoded once for both views (the originals run their pipeline twice on one PIL image:
DenseCL `openselfsup/datasets/contrastive.py`). Views stay uint8 until they are on the device; the
meta-arch normalises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import default_collate

from densessl.data.decode import decode_image
from densessl.data.transforms import PhotometricAugmentation, apply_to_view, crop_view, draw_view
from densessl.errors import ConfigError

NUM_VIEWS = 2


class TwoViewMapper:
    """Maps a record to two views, each with the exact geometry of its crop.

    Args:
        crop_size: side of the square views in pixels.
        crop_scale: least and greatest area of a crop as a share of the image.
        crop_ratio: least and greatest width / height of a crop.
        flip_prob: probability of mirroring a view left to right.
        photometric: law of colour jitter, grayscale and blur, drawn for each view; None for none.
        photometric_on: "cpu" applies it here; "device" only draws the parameters and leaves the work to
            `densessl.layers.photometric.apply_photometric`. The same generator state draws the same
            parameters in both.
    """

    needs_rng = True  # the loader passes a generator that depends on (seed, epoch, index) alone

    def __init__(
        self,
        crop_size: int = 224,
        crop_scale: Sequence[float] = (0.2, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.5,
        photometric: PhotometricAugmentation | None = None,
        photometric_on: Literal["cpu", "device"] = "cpu",
    ) -> None:
        if crop_size < 1:
            raise ConfigError(f"crop_size must be at least 1 pixel, got {crop_size}")
        for name, (low, high) in {"crop_scale": crop_scale, "crop_ratio": crop_ratio}.items():
            if not 0 < low <= high:
                raise ConfigError(f"{name} must be (least, greatest), both positive, got {(low, high)}")
        if not 0 <= flip_prob <= 1:
            raise ConfigError(f"flip_prob must be within [0, 1], got {flip_prob}")
        if photometric_on not in ("cpu", "device"):
            raise ConfigError(f"photometric_on must be 'cpu' or 'device', got {photometric_on!r}")
        self.output_size = (crop_size, crop_size)
        self.crop_scale = tuple(crop_scale)
        self.crop_ratio = tuple(crop_ratio)
        self.flip_prob = flip_prob
        self.photometric = photometric
        self.photometric_on = photometric_on

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Decode the image of a record and cut two views.

        Args:
            record: has `file_name`, and what `decode_image` reads; `image_id` is passed on.
            rng: the only source of randomness.

        Returns:
            `views`, two (3, H, W) uint8 RGB tensors; `geometry`, two `ViewGeometry`; `file_name`;
            `image_id`; and with `photometric_on="device"` also `photometric`, two (P,) float32 tensors.

        Raises:
            DataError: the image cannot be decoded.
        """
        image = decode_image(record)  # (h, w, 3) uint8
        sample: dict[str, Any] = {"file_name": record["file_name"], "image_id": record["image_id"]}
        sample["views"], sample["geometry"], photometric = [], [], []
        for _ in range(NUM_VIEWS):
            geometry = draw_view(
                image.shape[:2], rng, self.output_size, self.crop_scale, self.crop_ratio, self.flip_prob
            )
            view = crop_view(image, geometry)
            if self.photometric is not None:
                params = self.photometric.draw(rng)
                if self.photometric_on == "cpu":
                    view = apply_to_view(view, params)
                else:
                    photometric.append(torch.from_numpy(params))
            sample["views"].append(torch.from_numpy(view))
            sample["geometry"].append(geometry)
        if photometric:
            sample["photometric"] = photometric
        return sample


_STACKED = ("views", "photometric")  # lists over the views of tensors: stacked over the samples
_TRANSPOSED = ("geometry",)  # lists over the views of objects


def collate_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins the samples of a mapper of views into one batch.

    In a worker process the stacked tensors are written straight into shared memory.

    Args:
        samples: N samples with the same keys and as many views each.

    Returns:
        `views`, for each view (N, 3, H, W) uint8; `photometric` likewise, where present, (N, P) float32;
        `geometry`, for each view a list of N; every other key a list of N.
    """
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key in _STACKED:
            batch[key] = [default_collate(list(view)) for view in zip(*values)]
        elif key in _TRANSPOSED:
            batch[key] = [list(view) for view in zip(*values)]
        else:
            batch[key] = values
    return batch
