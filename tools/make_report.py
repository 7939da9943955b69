#!/usr/bin/env python
"""Writes one self-contained HTML report of pretraining runs and of the fine-tuning runs that used them.

    tools/make_report.py output/densecl output/mask_rcnn_densecl output/mask_rcnn_random
    tools/make_report.py --title "DenseCL on my photographs" --pretrain output/densecl \
        --finetune DenseCL=output/mask_rcnn_densecl --finetune random=output/mask_rcnn_random \
        --images photographs/ --output output/report.html

A run with a test set (dataloader.test) counts as fine-tuning, any other as pretraining. A folder of runs
stands for all runs in it. docs/report.md explains each section.
"""

import argparse
from pathlib import Path

from densessl.engine.launch import run_main
from densessl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch, so that --help is immediate."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add(
        "runs",
        nargs="*",
        metavar="RUN_DIR",
        help="output directories, called by their last part; after --images, put -- before them",
    )
    add("--title", default="densessl report")
    add(
        "--pretrain",
        metavar="[NAME=]RUN_DIR",
        action="append",
        default=[],
        help="output directory of a pretraining run, called NAME or 'pretraining'; may be repeated",
    )
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
        help="config file that a run started from, to list what was changed (default: the one in its log)",
    )
    add("--num-images", type=int, default=4, help="images drawn in each section (default: 4)")
    add(
        "--match-threshold",
        type=float,
        default=-1.0,
        help="least cosine of a match (default: none, since it does not compare between networks)",
    )
    add("--score-threshold", type=float, default=0.5, help="score of a drawn object (default: 0.5)")
    add("--output", metavar="FILE", help="the HTML file to write (default: report.html in the first run)")
    return result


def _pairs(option: str, entries: list[str], default: str | None = None) -> dict[str, str]:
    """["a=b"] -> {"a": "b"}; an entry without a name is called `default` where there is one."""
    pairs = {}
    for entry in entries:
        name, sign, path = entry.partition("=")
        if not sign and default:
            name, path = default, entry
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
    pretrain = _pairs("pretrain", args.pretrain, "pretraining")
    finetune, recipes = _pairs("finetune", args.finetune), _pairs("recipe", args.recipe)
    paths = [*args.runs, *pretrain.values(), *finetune.values()]
    if not paths:
        raise ConfigError("A report needs at least one run: give its directory.")

    from densessl.visualization.report import ReportOptions, write_report  # imports torch
    from densessl.visualization.runs import read_run, run_folders

    given = [read_run(name, path) for name, path in run_folders(args.runs).items()]
    pretrains = [run for run in given if run.is_pretraining]
    pretrains += [read_run(name, path) for name, path in pretrain.items()]
    finetunes = [run for run in given if not run.is_pretraining]
    finetunes += [read_run(name, path) for name, path in finetune.items()]
    options = ReportOptions(
        title=args.title,
        images=args.images,
        num_images=args.num_images,
        recipes=recipes,
        match_threshold=args.match_threshold,
        score_threshold=args.score_threshold,
    )
    write_report(args.output or Path(paths[0]) / "report.html", pretrains, finetunes, options)


if __name__ == "__main__":
    run_main(main)
