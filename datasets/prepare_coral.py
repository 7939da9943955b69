"""Builds the `coral` sample: one annotated underwater orthophoto, cut into tiles.

    python datasets/prepare_coral.py [--output datasets/coral] [--tile-size 318] [--sdist FILE]

The source distribution of yolo-tiling 0.0.31 on the Python package index carries, as test data, an
orthophoto of a reef (3175 x 3176 pixels) with 308 instance polygons in four classes. pip fetches it by
name; its sha256 is pinned. Repository: https://github.com/Jordan-Pierce/yolo-tiling

Tiles never share a pixel. Tile (row, column) is held out where (column - 2 * row) mod 5 == phase: one tile of
every five in each row and column, never two side by side, so light, depth and colonies of all parts of the
reef are in both splits. Of the five phases that one is taken whose rarest class has most held-out instances.
Colonies are cut at tile borders, so a large one may have pieces in both splits: the held-out AP says how well
the detector knows this reef, not other reefs. A small piece of a colony that lies mostly in other tiles is a
crowd region, neither learned nor scored.
"""

import io
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from shapely import make_valid
from shapely.geometry import Polygon, box
from shapely.geometry.base import BaseGeometry

from densessl.data.datasets.sample_writer import (
    CocoWriter,
    build_atomically,
    builder_parser,
    main_guard,
    mask_to_rle,
    pip_download,
    segmentation_to_mask,
    sha256_of,
)
from densessl.errors import DataError

PIN = "yolo-tiling==0.0.31"
SHA256 = "d1681668491b770b903646e735c53ebdb0731063832288267d7562444db5263d"
IMAGE_MEMBER = "tests/segmentation/train/images/VOS_RGB.png"
LABEL_MEMBER = "tests/segmentation/train/labels/VOS_RGB.txt"
LICENSE_MEMBER = "LICENSE"
# data.yaml beside the image calls them Montipora_plate/flabellata, Pocillopora, Porite_massive,
# Montipora_crust/patula
CATEGORIES = ("plate Montipora", "Pocillopora", "massive Porites", "encrusting Montipora")
# A sliver left by a tile border shows nothing that can be recognised: 20 x 20 pixels of the orthophoto.
MIN_AREA = 400.0
# Less than this and less than a quarter of the colony: a crowd region.
CROWD_AREA = 64.0**2
CROWD_VISIBLE = 0.25
HELD_OUT_PERIOD = 5

Instance = tuple[int, BaseGeometry]


@dataclass(frozen=True)
class Piece:
    """What one tile shows of one instance: class, COCO polygons in tile pixels, whether it is a crowd."""

    category: int
    polygons: list[list[float]]
    crowd: bool


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the grid, x0, y0, x1, y1 in the orthophoto, and what lies in it."""

    row: int
    column: int
    bounds: tuple[int, int, int, int]
    pieces: list[Piece]


def fetch_sdist(folder: Path) -> Path:
    """Downloads the pinned source distribution into `folder`."""
    # no-build-isolation: pip reads the sdist's metadata, and setuptools is here already
    return pip_download(PIN, folder, "--no-binary=:all:", "--no-build-isolation")


def read_sdist(path: Path, expected_sha256: str = SHA256) -> tuple[Image.Image, str, str]:
    """Reads orthophoto (RGB), YOLO label text and licence text out of the sdist without unpacking it.

    Raises:
        DataError: not a file, another sha256, or a member missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the source distribution of {PIN}.")
    found = sha256_of(path)
    if found != expected_sha256:
        raise DataError(f"{path}: sha256 is {found}, expected {expected_sha256} ({PIN}); not used.")
    wanted: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.partition("/")[2]  # drops "yolo_tiling-0.0.31/"
            if name in (IMAGE_MEMBER, LABEL_MEMBER, LICENSE_MEMBER) and member.isfile():
                wanted[name] = archive.extractfile(member).read()
    for name in (IMAGE_MEMBER, LABEL_MEMBER, LICENSE_MEMBER):
        if name not in wanted:
            raise DataError(f"{path}: has no {name}; is it the source distribution of {PIN}?")
    image = Image.open(io.BytesIO(wanted[IMAGE_MEMBER])).convert("RGB")
    return image, wanted[LABEL_MEMBER].decode(), wanted[LICENSE_MEMBER].decode()


def parse_yolo_polygons(text: str, width: int, height: int) -> list[Instance]:
    """Reads lines `class x0 y0 x1 y1 ...` (fractions of the image) as (class, polygon in pixels).

    Raises:
        DataError: a line with a class out of range or fewer than three points; gives its number.
    """
    instances = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        category, values = int(fields[0]), np.array(fields[1:], dtype=np.float64)
        if not 0 <= category < len(CATEGORIES) or len(values) < 6 or len(values) % 2:
            raise DataError(
                f"label line {number}: class {category} with {len(values)} numbers is no polygon."
            )
        points = values.reshape(-1, 2) * (width, height)
        instances.append((category, make_valid(Polygon(points))))
    return instances


def tile_edges(length: int, tile_size: int) -> list[int]:
    """Borders, in whole pixels, that cut `length` into equal tiles of about `tile_size`."""
    count = max(1, round(length / tile_size))
    return [round(i * length / count) for i in range(count + 1)]


def is_held_out(row: int, column: int, phase: int) -> bool:
    """Whether a tile belongs to the validation split (see the module's text)."""
    return (column - 2 * row) % HELD_OUT_PERIOD == phase


def choose_phase(tiles: list[Tile]) -> int:
    """The phase whose rarest class has most held-out instances; the first of equals."""

    def rarest(phase: int) -> int:
        held_out = [tile for tile in tiles if is_held_out(tile.row, tile.column, phase)]
        counts = Counter(p.category for tile in held_out for p in tile.pieces if not p.crowd)
        return min(counts[category] for category in range(len(CATEGORIES)))

    return max(range(HELD_OUT_PERIOD), key=rarest)


def clip_to_tile(geometry: BaseGeometry, bounds: tuple[int, int, int, int]) -> list[list[float]]:
    """Polygons (COCO lists, tile pixels, rounded to 0.01) of the part of `geometry` inside `bounds`.

    Args:
        geometry: in pixels of the whole picture.
        bounds: x0, y0, x1, y1 of the tile.

    Returns:
        Exterior rings of the pieces; [] when less than MIN_AREA square pixels remain.
    """
    inside = geometry.intersection(box(*bounds))
    if inside.area < MIN_AREA:
        return []
    pieces = [p for p in getattr(inside, "geoms", [inside]) if p.geom_type == "Polygon" and p.area >= 1]
    rings = [np.asarray(p.exterior.coords)[:-1] - bounds[:2] for p in pieces]
    return [[round(float(v), 2) for v in ring.ravel()] for ring in rings]


def cut_tiles(width: int, height: int, instances: list[Instance], tile_size: int) -> list[Tile]:
    """All tiles of the picture, row by row, with their pieces of the instances."""
    rows, columns = tile_edges(height, tile_size), tile_edges(width, tile_size)
    tiles = []
    for r in range(len(rows) - 1):
        for c in range(len(columns) - 1):
            bounds = (columns[c], rows[r], columns[c + 1], rows[r + 1])
            pieces = []
            for category, geometry in instances:
                polygons = clip_to_tile(geometry, bounds)
                area = sum(Polygon(np.reshape(ring, (-1, 2))).area for ring in polygons)
                crowd = area < min(CROWD_AREA, CROWD_VISIBLE * geometry.area)
                if polygons:
                    pieces.append(Piece(category, polygons, crowd))
            tiles.append(Tile(r, c, bounds, pieces))
    return tiles


def write_tiles(folder: Path, image: Image.Image, instances: list[Instance], tile_size: int) -> str:
    """Cuts picture and polygons into tiles below `folder`; returns a one-line summary."""
    source = f"{PIN}, orthophoto {image.width}x{image.height}"
    writers = {split: CocoWriter(folder, split, CATEGORIES, source) for split in ("train", "val")}
    tiles = cut_tiles(image.width, image.height, instances, tile_size)
    phase = choose_phase(tiles)
    for tile in tiles:
        writer = writers["val" if is_held_out(tile.row, tile.column, phase) else "train"]
        picture, name = image.crop(tile.bounds), f"tile_r{tile.row:02d}_c{tile.column:02d}.jpg"
        image_id = writer.add_image(picture, name, tile_box=list(tile.bounds))
        for piece in tile.pieces:
            if piece.crowd:  # COCO stores crowds as RLE
                mask = segmentation_to_mask(piece.polygons, picture.height, picture.width)
                writer.add_instance(image_id, piece.category, mask_to_rle(mask), iscrowd=1)
            else:
                writer.add_instance(image_id, piece.category, piece.polygons)
    parts = []
    for split, writer in writers.items():
        counts = writer.write()
        if min(counts.values()) == 0:
            raise DataError(f"--tile-size {tile_size} leaves a class without instances in {split}: {counts}.")
        images = len(writer.document["images"])
        parts.append(f"{split} {images} tiles, {sum(counts.values())} instances {counts}")
    return f"coral, tiles of {tile_size}: " + "; ".join(parts)


def build(folder: Path, tile_size: int, sdist: Path | None, expected_sha256: str = SHA256) -> str:
    """Fills `folder` with the data set and returns its one-line description."""
    with tempfile.TemporaryDirectory() as temporary:
        path = sdist if sdist is not None else fetch_sdist(Path(temporary))
        image, labels, license_text = read_sdist(path, expected_sha256)
    summary = write_tiles(folder, image, parse_yolo_polygons(labels, *image.size), tile_size)
    (folder / "LICENSE.txt").write_text(
        f"Cut from {IMAGE_MEMBER} of the source distribution {PIN} (sha256 {SHA256}),\n"
        "https://github.com/Jordan-Pierce/yolo-tiling . The picture carries no separate terms; the\n"
        f"repository's licence follows.\n\n{license_text}"
    )
    return summary


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    parser = builder_parser(__doc__, "coral")
    parser.add_argument("--tile-size", type=int, default=318, help="side of a tile in pixels, about")
    parser.add_argument("--sdist", type=Path, help="the source distribution, if already on disk (no network)")
    args = parser.parse_args()
    if args.tile_size < 64:
        parser.error(f"--tile-size {args.tile_size} is too small: at least 64")
    return build_atomically(args.output, lambda folder: build(folder, args.tile_size, args.sdist))


if __name__ == "__main__":
    main_guard(main)
