#!/usr/bin/env python
"""Scores the trunk of pretraining runs with the diagnostics of docs/diagnostics.md; trains nothing.

    tools/diagnose.py output/quickstart/densecl_R_18_coral --dataset coral_val --memory-dataset coral_train

RUN is a run directory (its newest checkpoint) or one checkpoint in it; several give a table with a column
each, after one for the same network untrained.
"""

import argparse
import json

from densessl.engine.launch import run_main
from densessl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch, so that --help is immediate."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = result.add_argument
    add("runs", nargs="+", metavar="RUN", help="run directory, or checkpoint in one")
    add("--dataset", required=True, help="registered name, or a folder for diagnostics without labels")
    add("--memory-dataset", metavar="NAME", help="labelled images to learn from (default: half of --dataset)")
    add(
        "--diagnostics",
        default="spectrum,correspondence,retrieval,linear,clusters,knn,discovery",
        metavar="NAME,...",
        help="some of spectrum, correspondence, stereo, retrieval, linear, clusters, knn, discovery "
        "(default: all but stereo)",
    )
    add("--num-images", type=int, default=32, help="of each data set (default: 32)")
    add("--image-size", type=int, default=224, help="pixels a side (default: 224)")
    add("--stereo-size", type=int, default=768, help="pixels a side of the stereo pair (default: 768)")
    add("--feature", help="output of the backbone (default: that of the pretraining)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--no-untrained", action="store_true", help="leave out the column of the untrained network")
    add("--output", metavar="FILE", help="write the numbers as JSON")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Scores and prints.

    Raises:
        DensesslError: a run, data set or option cannot be used.
    """
    args = parser().parse_args(arguments)
    from densessl.diagnostics.offline import diagnose, format_table  # imports torch

    results = diagnose(
        args.runs,
        diagnostics=[name.strip() for name in args.diagnostics.split(",") if name.strip()],
        dataset=args.dataset,
        memory_dataset=args.memory_dataset,
        num_images=args.num_images,
        image_size=args.image_size,
        stereo_size=args.stereo_size,
        feature=args.feature,
        device=args.device,
        untrained=not args.no_untrained,
    )
    if args.output:
        try:
            with open(args.output, "w") as file:
                json.dump({"dataset": args.dataset, "results": results}, file, indent=1)
        except OSError as error:
            raise ConfigError(f"--output {args.output}: cannot be written ({error.strerror}).") from error
    print(format_table(results))


if __name__ == "__main__":
    run_main(main)
