#!/usr/bin/env python3
"""Draws clusters of the features of a backbone: k-means over all places of all images.

    tools/visualize_clusters.py RUN_DIR photographs/ --clusters 8 --output clusters.png

One row for each image: the image, and its clusters for each backbone (--untrained adds a second one). Equal
colours and numbers mean the same cluster across the images of one backbone; cluster 1 is the largest.
"""

from densessl.engine.launch import run_main
from densessl.visualization.commands import load, picture_parser, save_rows


def main(arguments: list[str] | None = None) -> None:
    """Draws.

    Raises:
        DensesslError: an argument, an image or the checkpoint cannot be used.
    """
    parser = picture_parser(__doc__, "clusters.png")
    parser.add_argument("--clusters", type=int, default=8, help="number of clusters (default: 8)")
    args = parser.parse_args(arguments)
    if args.clusters < 2:
        parser.error(f"--clusters {args.clusters} must be at least 2")
    models, photographs = load(args)

    from densessl.visualization.pictures import cluster_columns  # imports torch

    scaled, columns, shares = cluster_columns(models, photographs, args.clusters)
    save_rows(list(zip(scaled, *columns.values())), args.output)
    for name, found in shares.items():
        print(f"{name}: {', '.join(f'{share:.0%}' for share in found)} of the places in each cluster")
    print(f"{args.output}: {len(scaled)} image(s), {', '.join(columns)}")


if __name__ == "__main__":
    run_main(main)
