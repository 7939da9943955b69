"""What the tools/visualize_*.py commands share: the command line, the backbone it names, the PNG to write.

Importing this module imports neither torch nor OpenCV, so that --help is immediate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densessl.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from densessl.visualization.backbones import FeatureExtractor
    from densessl.visualization.photographs import Photograph

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
GAP = 6  # pixels between pictures


def picture_parser(description: str, output: str) -> argparse.ArgumentParser:
    """Checkpoint, images and output: the arguments of every command that draws features.

    Args:
        description: docstring of the command.
        output: default file.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="output directory of a run, or one of its model_*.pth")
    add("images", nargs="+", metavar="IMAGE", help="image files or folders of photographs")
    add("--output", default=output, metavar="FILE", help=f"picture to write (default: {output})")
    add("--num", type=int, default=4, help="images, spread evenly over those given (default: 4)")
    add(
        "--feature",
        help="one of the outputs of the backbone in its config (default: the one that the method trains)",
    )
    add("--untrained", action="store_true", help="beside it, the same network before its first step")
    return parser


def check_output(output: str) -> None:
    """Raises ConfigError where `output` is not a picture's name, or its folder cannot take it."""
    path = Path(output)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--output {output}: no picture format has this ending; use .png.")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output} cannot be written: there is no folder {str(path.parent)!r}.")


def load(args: argparse.Namespace) -> tuple[dict[str, FeatureExtractor], list[Photograph]]:
    """The backbones to show by name, and the photographs.

    Raises:
        ConfigError, DataError, CheckpointError: an argument, an image or the checkpoint cannot be used.
    """
    check_output(args.output)
    if args.num < 1:
        raise ConfigError(f"--num {args.num} must be at least 1.")
    from densessl.visualization.backbones import pretrained_backbone, untrained_backbone
    from densessl.visualization.photographs import image_files, read_photograph, spread
    from densessl.visualization.runs import read_run_or_checkpoint

    photographs = [read_photograph(file) for file in spread(image_files(args.images), args.num)]
    run = read_run_or_checkpoint("checkpoint", args.checkpoint)
    models = {run.checkpoint.stem if run.checkpoint else run.name: pretrained_backbone(run, args.feature)}
    if args.untrained:
        models["untrained"] = untrained_backbone(run, feature=args.feature)
    return models, photographs


def save_rows(rows: Sequence[Sequence[np.ndarray]], output: str) -> None:
    """Writes pictures as a white sheet: one row per entry, GAP pixels apart.

    Args:
        rows: (H, W, 3) uint8 RGB each; heights may differ between rows and within one.
        output: file name; its ending says the format.

    Raises:
        ConfigError: the file cannot be written.
    """
    import numpy as np
    from PIL import Image

    width = max(sum(p.shape[1] for p in row) + GAP * (len(row) - 1) for row in rows)
    height = sum(max(p.shape[0] for p in row) for row in rows) + GAP * (len(rows) - 1)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + GAP
        top += max(p.shape[0] for p in row) + GAP
    try:
        Image.fromarray(sheet).save(output)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror or error}.") from error
