#!/usr/bin/env python
"""Converts weights between the layouts of other libraries and this project's, and proves it.

    tools/convert_checkpoint.py moco_v2_800ep.pth.tar r50.pkl --to detectron2 --verify

Prints what was kept, renamed and dropped, and what a config that uses the new file must have. Refuses to lose
anything that it cannot explain. docs/conversion.md has one command for each layout.
"""

import argparse

from densessl.checkpoint.layouts import LAYOUTS
from densessl.engine.launch import run_main


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch, so that --help is immediate."""
    width = max(len(layout.name) for layout in LAYOUTS)
    rows = [f"  {layout.name:{width}}  {layout.title}" for layout in LAYOUTS]
    result = argparse.ArgumentParser(
        description=__doc__,
        epilog="layouts, in order of recognition:\n" + "\n".join(rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [layout.name for layout in LAYOUTS]
    result.add_argument("source", metavar="IN", help="weight file, run directory, detectron2:// or https://")
    result.add_argument("target", metavar="OUT", help="file to write: .pth, .pth.tar, .pkl or .safetensors")
    result.add_argument("--to", required=True, choices=names, metavar="LAYOUT", help="layout of OUT")
    result.add_argument(
        "--from",
        dest="layout",
        choices=names,
        metavar="LAYOUT",
        help="layout of IN (default: recognised; timm and torchvision have equal names)",
    )
    result.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="name of IN's model in torchvision or timm: for --verify, and for timm's pixel statistics",
    )
    result.add_argument(
        "--verify",
        nargs="?",
        const="",
        metavar="PHOTO",
        help="compare features of IN in its own library and of OUT in detectron2's ResNet on a photograph "
        "(default: one of scikit-image's); a difference above 1e-5 of the feature scale is an error",
    )
    return result


def main(arguments: list[str] | None = None) -> None:
    """Converts one file.

    Raises:
        DensesslError: the file cannot be converted without loss; nothing was written.
    """
    args = parser().parse_args(arguments)

    from densessl.checkpoint.job import convert_file  # imports torch

    convert_file(args.source, args.target, args.to, args.layout, args.model, args.verify)


if __name__ == "__main__":
    run_main(main)
