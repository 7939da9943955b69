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

from densessl.engine.launch import run_main
from densessl.errors import ConfigError
from densessl.visualization.commands import check_output, save_rows


def records_and_mapper(args: argparse.Namespace) -> tuple:
    """The image source and mapper of the config, or the shared ones on a folder."""
    from detectron2.config import instantiate

    from densessl.config import get_config, load_config
    from densessl.data.dataset_mappers import TwoViewMapper
    from densessl.data.datasets import register_datasets

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
    return args


def main() -> None:
    """Draws what the mapper of a config returns. Raises ConfigError or DataError."""
    args = parse()
    check_output(args.output)
    import numpy as np

    from densessl.data.decode import decode_image
    from densessl.visualization.mapped_views import draw_sample

    records, mapper = records_and_mapper(args)
    rows = []
    for index in np.linspace(0, len(records) - 1, min(args.num, len(records))).round().astype(int):
        record = records[int(index)]
        sample = mapper(record, rng=np.random.default_rng((args.seed, int(index))))
        rows.append(draw_sample(decode_image(record), sample, args.size))
    save_rows([[row] for row in rows], args.output)
    print(f"{args.output}: {len(rows)} image(s) of {len(records)}")


if __name__ == "__main__":
    run_main(main)
