#!/usr/bin/env python3
"""Measures JPEG-to-two-views speed against the PIL stack of the originals and against lightly.

    tools/benchmark_views.py [--images FOLDER] [--rounds 7] [--crop-size 224]

Prints a Markdown table: images per second of one core, and the ratio to the PIL stack. One image means one
decoded file and both of its views. Processor time of one thread; the variants take turns on the same files
(A B C D A B C D ...) and the median over the rounds of the ratio within a round is what counts: the absolute
figures depend on the machine. Without --images: the photographs of scikit-image and scikit-learn at
640 x 480, JPEG quality 95.

    PIL stack       PIL decodes, torchvision transforms on PIL: facebookresearch/moco main_moco.py:328-354,
                    normalised float views stacked; decoded once for both views, as there
    lightly         the same decoder, lightly's MoCoV2Transform; its batch is float too
    densessl, cpu   TwoViewMapper and collate_views, colour and blur on the CPU; uint8 views
    densessl, device  the same, colour and blur left to the device (crop and flip only)
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import default_collate
from torchvision import transforms as T

from densessl.data.dataset_mappers import TwoViewMapper, collate_views
from densessl.data.sources import scan_folder
from densessl.data.transforms import PhotometricAugmentation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Variant = Callable[[list[bytes]], object]


def sample_photographs(size: tuple[int, int] = (640, 480)) -> list[bytes]:
    """Photographs that come with two packages, as JPEG bytes of (width, height) `size`."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    images = [data.astronaut(), data.coffee(), data.chelsea(), *load_sample_images().images]
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    return files


def pil_blur(image: Image.Image) -> Image.Image:
    """MoCo's GaussianBlur (moco/loader.py): PIL's, with a radius drawn from python's generator."""
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def pil_stack(crop_size: int) -> Variant:
    """The published stack."""
    transform = T.Compose(
        [
            T.RandomResizedCrop(crop_size, scale=(0.2, 1.0)),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([pil_blur], p=0.5),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )

    def run(files: list[bytes]) -> object:
        images = (Image.open(io.BytesIO(file)).convert("RGB") for file in files)
        return default_collate([[transform(image), transform(image)] for image in images])

    return run


def lightly_stack(crop_size: int) -> Variant:
    """lightly's transform with its own defaults."""
    from lightly.transforms import MoCoV2Transform

    transform = MoCoV2Transform(input_size=crop_size)

    def run(files: list[bytes]) -> object:
        return default_collate([transform(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])

    return run


def ours(crop_size: int, photometric_on: str) -> Variant:
    """The mapper and collate function of the shared configs."""
    mapper = TwoViewMapper(crop_size, photometric=PhotometricAugmentation(), photometric_on=photometric_on)
    rng = np.random.default_rng(0)

    def run(files: list[bytes]) -> object:
        records = [{"file_name": "sample", "image_id": i, "image_bytes": f} for i, f in enumerate(files)]
        return collate_views([mapper(record, rng=rng) for record in records])

    return run


def measure(variants: dict[str, Variant], files: list[bytes], rounds: int) -> dict[str, list[float]]:
    """Images per second of processor time, for each variant and round; the first round only warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for warm in range(rounds + 1):
        for name, variant in variants.items():
            start = time.process_time()
            variant(files)
            if warm:
                speeds[name].append(len(files) / (time.process_time() - start))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder of JPEG files; default: packaged photographs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=30, help="images per round and variant")
    parser.add_argument("--crop-size", type=int, default=224)
    args = parser.parse_args()

    torch.set_num_threads(1)
    if args.images:
        names = sorted(scan_folder(args.images))[: args.batch]
        files = [(Path(args.images) / os.fsdecode(name)).read_bytes() for name in names]
    else:
        files = sample_photographs()
    files = (files * args.batch)[: args.batch]

    variants = {
        "PIL stack": pil_stack(args.crop_size),
        "lightly": lightly_stack(args.crop_size),
        "densessl, cpu": ours(args.crop_size, "cpu"),
        "densessl, device": ours(args.crop_size, "device"),
    }
    speeds = measure(variants, files, args.rounds)
    print("| two views of a JPEG | images/s/core | against the PIL stack (min-max) |\n|---|---|---|")
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, speeds["PIL stack"])]
        print(
            f"| {name} | {statistics.median(values):.0f} | {statistics.median(ratios):.2f}x "
            f"({min(ratios):.2f}-{max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
