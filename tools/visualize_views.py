#!/usr/bin/env python3
"""Draws what the mapper of a config returns: one row for each image, with the geometry of its two views.

    tools/visualize_views.py --images FOLDER --output views.png
    tools/visualize_views.py --config-file CONFIG.py --output views.png [key=value ...]

Left: the image with both crops (first blue, second orange). Middle and right: the views as the model gets
them; the white box is what the other view shows too, and points of one colour and number are one point of the
image. With `photometric_on="device"` colour and blur are applied here as the model would.
"""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from densessl.data.dataset_mappers import TwoViewMapper
from densessl.data.datasets import register_datasets
from densessl.data.decode import decode_image
from densessl.data.geometry import ViewGeometry, correspondence, overlap_in_view
from densessl.engine.launch import run_main
from densessl.errors import ConfigError

BLUE, ORANGE, WHITE, BLACK = (0, 114, 178), (230, 159, 0), (255, 255, 255), (0, 0, 0)
GAP = 6  # pixels between pictures
POINTS = (4, 4)  # rows and columns of points over the first view


def draw_box(picture: np.ndarray, box: tuple[float, float, float, float], color: tuple, scale: float) -> None:
    """Outline of a box, black below the colour so that it shows on any picture."""
    x0, y0, x1, y1 = (round(value * scale) for value in box)
    for ink, width in ((BLACK, 4), (color, 2)):
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), ink, width)


def draw_point(picture: np.ndarray, point: np.ndarray, number: int, total: int, scale: float) -> None:
    """A numbered disc whose centre is the point; pixel centres are at +0.5, OpenCV's at whole numbers."""
    center = tuple(int(v) for v in np.floor(point * scale))
    color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number / total, 0.9, 1.0))
    cv2.circle(picture, center, 6, BLACK, -1, cv2.LINE_AA)
    cv2.circle(picture, center, 5, color, -1, cv2.LINE_AA)
    corner = (center[0] + 7, center[1] + 4)
    for ink, width in ((BLACK, 3), (WHITE, 1)):
        cv2.putText(picture, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, width, cv2.LINE_AA)


def draw_sample(image: np.ndarray, sample: dict, size: int) -> np.ndarray:
    """One row (size, 3 size + 2 GAP, 3): the image, view 1, view 2."""
    scale = size / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for geometry, color in zip(sample["geometry"], (BLUE, ORANGE)):
        draw_box(small, geometry.box, color, scale)
    row = np.full((size, 3 * size + 2 * GAP, 3), 255, np.uint8)
    row[: small.shape[0], : small.shape[1]] = small
    for v, view in enumerate(shown_views(sample)):
        left = (v + 1) * (size + GAP)
        row[:, left : left + size] = draw_view_picture(view, sample["geometry"], v, size)
    return row


def draw_view_picture(view: np.ndarray, pair: list[ViewGeometry], v: int, size: int) -> np.ndarray:
    """View v of a pair enlarged to (size, size, 3), with the shared box and the points of the first view."""
    picture = cv2.resize(view, (size, size), interpolation=cv2.INTER_LINEAR)
    scale = size / view.shape[0]
    box = overlap_in_view(pair[v], pair[1 - v])
    if box is not None:
        draw_box(picture, box, WHITE, scale)
    in_second, inside = correspondence(*pair, POINTS)
    points = pair[0].cell_centers(POINTS) if v == 0 else in_second
    for number, (point, shared) in enumerate(zip(points.reshape(-1, 2), inside.ravel())):
        if shared:
            draw_point(picture, point, number, inside.size, scale)
    return picture


def shown_views(sample: dict) -> list[np.ndarray]:
    """The views as (H, W, 3) uint8, after the photometric work that is left to the device."""
    views = torch.stack(sample["views"])
    if "photometric" in sample:
        from densessl.layers.photometric import apply_photometric

        views = apply_photometric(views.float(), torch.stack(sample["photometric"])).round().byte()
    return [np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in views]


def records_and_mapper(args: argparse.Namespace) -> tuple:
    """The image source and mapper of the config, or the shared ones on a folder."""
    from detectron2.config import instantiate

    from densessl.config import get_config, load_config

    if args.config_file:
        node = load_config(args.config_file, args.overrides).dataloader.train
    else:
        node = get_config("common/data/folder_two_view.py").dataloader.train
        node.dataset.source = args.images
    register_datasets()
    mapper = instantiate(node.mapper)
    if not isinstance(mapper, TwoViewMapper):
        raise ConfigError(
            f"dataloader.train.mapper of {args.config_file} builds a {type(mapper).__name__}, which makes no "
            "two views; give a pretraining config."
        )
    return instantiate(node.dataset), mapper


def parse() -> argparse.Namespace:
    """The command line, with everything that can be wrong in its values checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--images", help="folder, list file, LMDB, tar shards or data set name")
    given.add_argument("--config-file", help="a pretraining config; its dataloader.train is used")
    parser.add_argument("--output", default="views.png")
    parser.add_argument("--num", type=int, default=6, help="images, spread evenly over the source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=320, help="side of each picture in pixels")
    parser.add_argument("overrides", nargs="*", help="key=value for --config-file")
    args = parser.parse_args()
    if args.overrides and args.images:
        parser.error(f"{args.overrides[0]!r}: overrides change a --config-file, and none is given")
    if args.num < 1 or args.size < 32 or args.seed < 0:
        parser.error("--num must be at least 1, --size at least 32, --seed at least 0")
    if Path(args.output).suffix.lower() not in Image.registered_extensions():
        parser.error(f"--output {args.output}: no picture format has this ending; use .png")
    return args


def main() -> None:
    args = parse()
    records, mapper = records_and_mapper(args)
    rows = []
    for index in np.linspace(0, len(records) - 1, min(args.num, len(records))).round().astype(int):
        record = records[int(index)]
        sample = mapper(record, rng=np.random.default_rng((args.seed, int(index))))
        rows.append(draw_sample(decode_image(record), sample, args.size))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    try:
        Image.fromarray(np.concatenate(rows[:-1])).save(args.output)
    except OSError as error:
        raise ConfigError(f"--output {args.output} cannot be written: {error.strerror or error}.") from error
    print(f"{args.output}: {len(rows) // 2} image(s) of {len(records)}")


if __name__ == "__main__":
    run_main(main)
