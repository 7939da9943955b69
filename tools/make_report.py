#!/usr/bin/env python
"""Writes one self-contained HTML report of a pretraining run and of the fine-tuning runs that used it.

    tools/make_report.py --title "DenseCL on my photographs" --pretrain output/densecl \
        --finetune DenseCL=output/mask_rcnn_densecl --finetune random=output/mask_rcnn_random \
        --images photographs/ --output output/report.html
"""

import argparse

from densessl.engine.launch import run_main
from densessl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch, so that --help is immediate."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add("--title", default="densessl report")
    add("--pretrain", metavar="RUN_DIR", help="output directory of a pretraining run")
    add(
        "--finetune",
        metavar="NAME=RUN_DIR",
        action="append",
        default=[],
        help="name in the report and output directory of a fine-tuning run; may be repeated",
    )
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="photographs or folders for correspondences and feature maps (default: held-out images)",
    )
    add(
        "--recipe",
        metavar="NAME=CONFIG",
        action="append",
        default=[],
        help="config file that a run started from (NAME as above, or pretraining): lists what was changed",
    )
    add("--num-images", type=int, default=4, help="images in each section (default: 4)")
    add("--match-threshold", type=float, default=0.9, help="cosine of a drawn match (default: 0.9)")
    add("--score-threshold", type=float, default=0.5, help="score of a drawn object (default: 0.5)")
    add("--output", required=True, metavar="FILE", help="the HTML file to write")
    return result


def _pairs(option: str, entries: list[str]) -> dict[str, str]:
    """["a=b"] -> {"a": "b"}."""
    pairs = {}
    for entry in entries:
        name, _, path = entry.partition("=")
        if not name or not path or name in pairs:
            raise ConfigError(f"--{option} {entry!r} must be NAME=PATH, each name once.")
        pairs[name] = path
    return pairs


def main(arguments: list[str] | None = None) -> None:
    """Reads the runs and writes the report.

    Raises:
        DensesslError: a run directory, image or checkpoint cannot be used.
    """
    args = parser().parse_args(arguments)
    if args.num_images < 1:
        raise ConfigError(f"--num-images {args.num_images} must be at least 1.")
    finetune, recipes = _pairs("finetune", args.finetune), _pairs("recipe", args.recipe)

    from densessl.visualization.report import ReportOptions, write_report  # imports torch
    from densessl.visualization.runs import read_run

    pretrain = read_run("pretraining", args.pretrain) if args.pretrain else None
    finetunes = [read_run(name, path) for name, path in finetune.items()]
    options = ReportOptions(
        title=args.title,
        images=args.images,
        num_images=args.num_images,
        recipes=recipes,
        match_threshold=args.match_threshold,
        score_threshold=args.score_threshold,
    )
    write_report(args.output, pretrain, finetunes, options)


if __name__ == "__main__":
    run_main(main)
