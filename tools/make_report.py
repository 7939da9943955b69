#!/usr/bin/env python
"""Writes one self-contained HTML report of a pretraining run and of the fine-tuning runs that used it.

    tools/make_report.py --title "DenseCL on my photographs" --pretrain output/densecl \
        --finetune DenseCL=output/mask_rcnn_densecl --finetune random=output/mask_rcnn_random \
        --images photographs/ --output output/report.html
"""

import argparse
import sys

from densessl.errors import ConfigError, DensesslError


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch, so that --help is immediate."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--title", default="densessl report")
    result.add_argument("--pretrain", metavar="RUN_DIR", help="output directory of a pretraining run")
    result.add_argument(
        "--finetune",
        metavar="NAME=RUN_DIR",
        action="append",
        default=[],
        help="name in the report and output directory of a fine-tuning run; may be repeated",
    )
    result.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="photographs or folders for correspondences and feature maps (default: held-out images)",
    )
    result.add_argument(
        "--num-images", type=int, default=4, help="how many images each section shows (default: 4)"
    )
    result.add_argument(
        "--match-threshold", type=float, default=0.9, help="cosine of a drawn match (default: 0.9)"
    )
    result.add_argument(
        "--score-threshold", type=float, default=0.5, help="score of a drawn object (default: 0.5)"
    )
    result.add_argument("--output", required=True, metavar="FILE", help="the HTML file to write")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Reads the runs and writes the report.

    Raises:
        DensesslError: a run directory, image or checkpoint cannot be used.
    """
    args = parser().parse_args(arguments)
    named = [entry.partition("=") for entry in args.finetune]
    for entry, (name, _, path) in zip(args.finetune, named):
        if not name or not path:
            raise ConfigError(f"--finetune {entry!r} must be NAME=RUN_DIR, such as DenseCL=output/mask_rcnn.")

    from densessl.visualization.report import ReportOptions, write_report  # imports torch
    from densessl.visualization.runs import read_run

    pretrain = read_run("pretraining", args.pretrain) if args.pretrain else None
    finetunes = [read_run(name, path) for name, _, path in named]
    options = ReportOptions(
        args.title, args.images, args.num_images, args.match_threshold, args.score_threshold
    )
    write_report(args.output, pretrain, finetunes, options)


if __name__ == "__main__":
    try:
        main()
    except DensesslError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
