#!/usr/bin/env python
"""Runs the step again that stopped a training because its loss or gradient was not finite.

    tools/replay_non_finite.py --config-file CONFIG OUTPUT_DIR/non_finite_0001234.pth [key=value ...]

Give the overrides of the run. Prints the images, the losses then and now, and the parameters with a
non-finite gradient. Status 0: it happened again; 1: it did not.
"""

import argparse
import sys

from densessl.engine.launch import run_main


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs a captured non-finite step again.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the run")
    parser.add_argument("--rank", type=int, help="whose part (default: the first with a non-finite loss)")
    parser.add_argument("capture", help="OUTPUT_DIR/non_finite_<iteration>.pth")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the run")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse()
    from densessl.config import load_config
    from densessl.engine.replay import replay

    result = replay(load_config(args.config_file, args.opts), args.capture, args.rank)
    print(f"iteration {result.iteration}, rank {result.rank}")
    for names, recorded, losses in zip(result.file_names, result.recorded, result.losses):
        print(f"  images: {', '.join(names)}\n  losses then: {recorded}\n  losses now:  {losses}")
    names = result.non_finite_gradients
    print(f"  parameters with a non-finite gradient: {', '.join(names) if names else 'none'}")
    print("reproduced" if result.reproduced else "NOT reproduced")
    if not result.reproduced:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
