#!/usr/bin/env python3
"""Draws the features of a backbone as colours: their first three principal components.

    tools/visualize_features.py RUN_DIR photographs/ --output features.png

One row for each image: the image, and its features for each backbone (--untrained adds a second one). Equal
colours mean similar features across the images of one backbone.
"""

from densessl.engine.launch import run_main
from densessl.visualization.commands import load, picture_parser, save_rows


def main(arguments: list[str] | None = None) -> None:
    """Draws.

    Raises:
        DensesslError: an argument, an image or the checkpoint cannot be used.
    """
    args = picture_parser(__doc__, "features.png").parse_args(arguments)
    models, photographs = load(args)

    from densessl.visualization.pictures import feature_columns  # imports torch

    scaled, columns, _ = feature_columns(models, photographs)
    save_rows(list(zip(scaled, *columns.values())), args.output)
    print(f"{args.output}: {len(scaled)} image(s), {', '.join(columns)}")


if __name__ == "__main__":
    run_main(main)
