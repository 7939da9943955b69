"""Squares for unsupervised segmentation: one image with the parameters of its views, or with its labels.

janghyuncho/PiCIE data/coco_train_dataset.py:70-166 and data/coco_eval_dataset.py. The authors draw tables of
parameters for all images at the start of an epoch, so that clustering, labelling and training see the same
pixels; here all passes see them because the parameters are a function of (seed, epoch, image).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from densessl.data.decode import decode_image
from densessl.data.semantic_labels import decode_labels
from densessl.data.transforms import FixedOrderPhotometric, resize_center_crop
from densessl.errors import ConfigError

NUM_VIEWS = 2


class ClusterViewMapper:
    """Decodes and cuts the central square; the views are made on the device (`densessl.modeling.meta_arch`).

    Args:
        size: side of the square in pixels, twice the resolution of the model.
        crop_scale: least and greatest side of the crop as a share of the square's.
        flip_prob: probability of mirroring both views.
        photometric: law of the colours, drawn for each view.
    """

    needs_rng = True  # the loader passes a generator that depends on (seed, epoch, index) alone

    def __init__(
        self,
        size: int = 640,
        crop_scale: Sequence[float] = (0.5, 1.0),
        flip_prob: float = 0.5,
        photometric: FixedOrderPhotometric | None = None,
    ) -> None:
        low, high = crop_scale
        if size < 1 or not 0 < low <= high <= 1:
            raise ConfigError(
                f"size={size} must be positive, crop_scale={(low, high)} least and greatest, up to 1."
            )
        self.size, self.crop_scale, self.flip_prob = size, (low, high), flip_prob
        # without one: colours are left alone
        self.photometric = photometric or FixedOrderPhotometric(jitter_prob=0.0, blur_prob=0.0)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """
        Args:
            record: has `file_name`, `image_id`, and what `decode_image` reads.
            rng: the only source of randomness.

        Returns:
            `image` (3, size, size) uint8; `photometric`, two (P,) float32; `crop`, (4,) float64, see
            `densessl.layers.crop_flip`; `file_name`; `image_id`.

        Raises:
            DataError: the image cannot be decoded.
        """
        square = resize_center_crop(decode_image(record), self.size)
        scale, top, left = rng.uniform(*self.crop_scale), rng.random(), rng.random()
        flip = float(rng.random() < self.flip_prob)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1))),
            "photometric": [torch.from_numpy(self.photometric.draw(rng)) for _ in range(NUM_VIEWS)],
            "crop": torch.tensor([scale, top, left, flip], dtype=torch.float64),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
        }


def collate_cluster_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins N samples of `ClusterViewMapper`, as the loader completes them.

    Returns:
        `image` (N, 3, S, S) uint8; `photometric`, for each view (N, P); `crop` (N, 4); `index`, `file_name`,
        `image_id` and `sample`, lists of N.
    """
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in ("image", "crop"):
        batch[key] = default_collate(batch[key])
    batch["photometric"] = [default_collate(list(view)) for view in zip(*batch["photometric"])]
    batch["index"] = [index for _, index in batch["sample"]]
    return batch


class LabelledSquareMapper:
    """Test square of an image and of its labels.

    Args:
        size: side in pixels; the score is measured on this square.
        map_labels: from the (h, w) uint8 values of the label file to classes, 255 for unlabelled; a function
            of this package, such as `densessl.data.datasets.coco_stuff.map_labels`. None: as they are.
    """

    def __init__(self, size: int = 320, map_labels: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        if size < 1:
            raise ConfigError(f"size={size} must be at least 1 pixel.")
        self.size, self.map_labels = size, map_labels

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            record: has `file_name`, `image_id`, `sem_seg_file_name`.

        Returns:
            `image` (3, size, size) uint8, `sem_seg` (size, size) int64, `file_name`, `image_id`.

        Raises:
            DataError: image or labels cannot be decoded, differ in size, or hold unknown values; names the
                file.
        """
        image = decode_image(record)
        labels = decode_labels(record["sem_seg_file_name"], image.shape[:2], self.map_labels)
        square = resize_center_crop(image, self.size)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1))),
            "sem_seg": torch.from_numpy(resize_center_crop(labels, self.size, labels=True)).long(),
            "file_name": record["file_name"],
            "image_id": record["image_id"],
        }
