"""One labelled image in, one square view out: training crops, test crops, and their batch.

Protocol of ImageNet classification as in facebookresearch/moco main_lincls.py and torchvision's references:
random resized crop and mirror for training; short side to 256 and the central 224 x 224 for test. Views stay
uint8 until they are on the device; the meta-arch normalises them. Resizing is torchvision's bilinear with
antialiasing on uint8, within 1/255 of PIL, which the originals use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as F

from densessl.data.decode import decode_image
from densessl.data.transforms import PhotometricAugmentation, apply_to_view, crop_view, draw_view
from densessl.errors import ConfigError

# Principal axes of ImageNet's RGB values in [0, 1] (Krizhevsky et al. 2012, section 4.1), as columns, and
# their eigenvalues: OpenSelfSup openselfsup/datasets/pipelines/transforms.py, Lighting
_PCA_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
_PCA_VALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)


class RandomCropMapper:
    """Training view of a labelled image: random resized crop, mirror, optionally colour.

    Args:
        crop_size: side of the view in pixels.
        crop_scale: least and greatest area of a crop as a share of the image (torchvision's default).
        crop_ratio: least and greatest width / height of a crop.
        flip_prob: probability of mirroring left to right.
        photometric: law of colour jitter; None for none.
        lighting_std: standard deviation of AlexNet's colour shift along the principal axes, 0 for none. The
            shifted view is float32, not clamped, as in OpenSelfSup.
    """

    needs_rng = True  # the loader passes a generator that depends on (seed, epoch, index) alone

    def __init__(
        self,
        crop_size: int = 224,
        crop_scale: Sequence[float] = (0.08, 1.0),
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.5,
        photometric: PhotometricAugmentation | None = None,
        lighting_std: float = 0.0,
    ) -> None:
        if crop_size < 1:
            raise ConfigError(f"crop_size must be at least 1 pixel, got {crop_size}")
        for name, (low, high) in {"crop_scale": crop_scale, "crop_ratio": crop_ratio}.items():
            if not 0 < low <= high:
                raise ConfigError(f"{name} must be (least, greatest), both positive, got {(low, high)}")
        if lighting_std < 0:
            raise ConfigError(f"lighting_std must not be negative, got {lighting_std}")
        self.output_size = (crop_size, crop_size)
        self.crop_scale, self.crop_ratio = tuple(crop_scale), tuple(crop_ratio)
        self.flip_prob = flip_prob
        self.photometric = photometric
        self.lighting_std = lighting_std

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Decode and cut.

        Args:
            record: has `file_name`, `image_id`, `label`, and what `decode_image` reads.
            rng: the only source of randomness.

        Returns:
            `image`, (3, H, W) RGB in [0, 255], uint8 or with lighting float32; `label`, `file_name`,
            `image_id`.

        Raises:
            DataError: the image cannot be decoded.
        """
        image = decode_image(record)
        geometry = draw_view(
            image.shape[:2], rng, self.output_size, self.crop_scale, self.crop_ratio, self.flip_prob
        )
        view = crop_view(image, geometry)
        if self.photometric is not None:
            view = apply_to_view(view, self.photometric.draw(rng))
        if self.lighting_std > 0:
            strength = rng.normal(0.0, self.lighting_std, 3).astype(np.float32)
            view = view + 255.0 * (_PCA_AXES @ (strength * _PCA_VALUES))[:, None, None]
        return {**_labels(record), "image": torch.from_numpy(view)}


class CenterCropMapper:
    """Test view of an image: short side to `short_edge`, then the central square of `crop_size`.

    Args:
        short_edge: length in pixels; the other side keeps the ratio, rounded down (torchvision's Resize).
        crop_size: side of the square in pixels, at most `short_edge`.
    """

    def __init__(self, short_edge: int = 256, crop_size: int = 224) -> None:
        if not 1 <= crop_size <= short_edge:
            raise ConfigError(f"crop_size={crop_size} must be in [1, short_edge={short_edge}]")
        self.short_edge, self.crop_size = short_edge, crop_size

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """As `RandomCropMapper`, without randomness; `image` is uint8. Keeps the record's other entries."""
        image = F.center_crop(_resize_short_edge(record, self.short_edge), [self.crop_size, self.crop_size])
        return {**_labels(record), "image": image.contiguous()}


class SquareMapper:
    """Short side to `short_edge`, then both sides to `size`: the ratio is not kept.

    The preparation of the VOC07 linear SVM (DenseCL benchmarks/extract_info/voc07.py), which sees whole
    images.

    Args:
        short_edge: first length in pixels.
        size: side of the result in pixels.
    """

    def __init__(self, short_edge: int = 256, size: int = 224) -> None:
        if short_edge < 1 or size < 1:
            raise ConfigError(f"short_edge={short_edge} and size={size} must be at least 1 pixel")
        self.short_edge, self.size = short_edge, size

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """As `CenterCropMapper`."""
        image = F.resize(_resize_short_edge(record, self.short_edge), [self.size, self.size], antialias=True)
        return {**_labels(record), "image": image.contiguous()}


def _resize_short_edge(record: dict[str, Any], short_edge: int) -> Tensor:
    # (3, h, w) with the memory order of (h, w, 3): torchvision's fast path on uint8
    image = torch.from_numpy(decode_image(record)).permute(2, 0, 1)
    return F.resize(image, [short_edge], antialias=True)


def _labels(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "image_bytes"}


def collate_labelled(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins N samples into `image` (N, 3, H, W), `label` (N,) int64, and lists of their other entries.

    In a worker process the stacked tensors are written straight into shared memory.
    """
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    batch["image"] = default_collate(batch["image"])
    batch["label"] = torch.tensor(batch["label"], dtype=torch.int64)
    return batch
