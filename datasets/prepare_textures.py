"""Draws `textures`: four classes of coloured stripes and spots in labelled folders, for classification.

    python datasets/prepare_textures.py [--output DIR] [--train N] [--val N] [--size PIXELS]

Pixels come from a seeded generator: nothing is downloaded and nothing is a photograph. A class is an
orientation of waves and a range of colours; phase, width, brightness and noise differ from image to image.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from densessl.data.datasets.sample_writer import build_atomically, builder_parser, main_guard
from densessl.errors import DataError

# class -> direction of the waves in turns (None: both ways, spots), mean colour in [0, 1]
CLASSES = {
    "blue_bars": (0.0, (0.2, 0.3, 0.8)),
    "green_spots": (None, (0.2, 0.7, 0.3)),
    "grey_slant": (0.125, (0.5, 0.5, 0.5)),
    "red_bands": (0.25, (0.8, 0.3, 0.2)),
}


def draw(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """One (size, size, 3) uint8 image of a class."""
    turns, colour = CLASSES[name]
    y, x = np.mgrid[:size, :size] / size
    waves, phase = rng.uniform(5, 9), rng.uniform(0, 1, 2)
    if turns is None:
        pattern = np.sin(2 * np.pi * (waves * x + phase[0])) * np.sin(2 * np.pi * (waves * y + phase[1]))
    else:
        angle = 2 * np.pi * (turns + rng.uniform(-0.02, 0.02))
        pattern = np.sin(2 * np.pi * (waves * (x * np.cos(angle) + y * np.sin(angle)) + phase[0]))
    tint = np.array(colour) + rng.uniform(-0.1, 0.1, 3)
    pixels = tint * (0.7 + 0.3 * pattern[..., None]) * rng.uniform(0.8, 1.2)
    return (255 * np.clip(pixels + rng.normal(0, 0.03, pixels.shape), 0, 1)).astype(np.uint8)


def build(folder: Path, train: int, val: int, size: int) -> str:
    """Writes `<split>/<class>/<number>.png`; `train` and `val` images per class."""
    for split, count in (("train", train), ("val", val)):
        for index, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng((split == "val", index, number))
                Image.fromarray(draw(name, size, rng)).save(folder / split / name / f"{number:03d}.png")
    (folder / "LICENSE.txt").write_text("Drawn by datasets/prepare_textures.py, Apache-2.0.\n")
    return f"{len(CLASSES)} classes of drawn textures, {train} + {val} images each, {size} pixels"


def main() -> str:
    """Parses the command line and draws the pictures; returns what was written, in words."""
    parser = builder_parser(__doc__, "textures")
    parser.add_argument("--train", type=int, default=40, help="training images per class (40)")
    parser.add_argument("--val", type=int, default=15, help="validation images per class (15)")
    parser.add_argument("--size", type=int, default=80, help="side in pixels (80)")
    args = parser.parse_args()
    if min(args.train, args.val) < 1 or args.size < 8:
        raise DataError("--train and --val must be at least 1 and --size at least 8.")
    return build_atomically(args.output, lambda folder: build(folder, args.train, args.val, args.size))


if __name__ == "__main__":
    main_guard(main)
