#!/usr/bin/env python3
"""Draws which places of two views of a photograph a backbone takes for the same.

    tools/visualize_correspondences.py RUN_DIR photographs/ --output correspondences.png

One row for each image, one pair of views for each backbone (--untrained adds a second one). Lines join mutual
nearest neighbours of the feature maps, the most similar ones: green with dots is right, orange with a cross
is wrong. The numbers printed at the end are those of the report; with more images they are surer.
"""

from densessl.engine.launch import run_main
from densessl.visualization.commands import load, picture_parser, save_rows


def main(arguments: list[str] | None = None) -> None:
    """Scores and draws.

    Raises:
        DensesslError: an argument, an image or the checkpoint cannot be used.
    """
    parser = picture_parser(__doc__, "correspondences.png")
    help = "least cosine of a match (default: none, since it does not compare between networks)"
    parser.add_argument("--match-threshold", type=float, default=-1.0, help=help)
    args = parser.parse_args(arguments)
    models, photographs = load(args)

    from densessl.visualization import matching  # imports torch

    pairs = [matching.pair_of(photographs, index, repeat=0) for index in range(len(photographs))]
    drawn = [
        [matching.matched_pair(m, pair, args.match_threshold) for m in models.values()] for pair in pairs
    ]
    save_rows([[picture for picture, _ in row] for row in drawn], args.output)
    for photograph, row in zip(photographs, drawn):
        for name, (_, words) in zip(models, row):
            print(f"{photograph.name}, {name}: {words}")
    scores = matching.score_backbones(models, photographs, args.match_threshold)
    for name, parts in scores.items():
        print(f"{name}: {matching.share(matching.total(parts)):.1%} of the nearest neighbours are right")
    print(args.output)


if __name__ == "__main__":
    run_main(main)
