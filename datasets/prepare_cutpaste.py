"""Builds the `cutpaste` sample: photographic cut-outs pasted on photographs, with exact masks.

    python datasets/prepare_cutpaste.py [--images 400] [--val-images 80] [--size 320] [--seed 0]
        [--classes bird,mammal,...] [--objects 2 6] [--scale 0.2 0.6] [--max-occlusion 0.5]

Two Debian packages hold the material: `tuxpaint-stamps-default` (PNG cut-outs with alpha, GPL-2) and
`gcompris-qt-data` (photographs of monuments; free licences file by file). `apt-get download` fetches them
(no root needed); elsewhere pass `--stamps-deb` and `--photos-deb`.

Every instance mask is the visible part of its cut-out: what later objects cover is taken away, so masks
never overlap. Validation pictures use other cut-outs and other backgrounds than training pictures: every
fourth of each sorted list is held out. Picture i of a split depends on (seed, split, i) and the options
alone, so a longer set begins with the shorter one.
"""

import argparse
import io
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from densessl.data.datasets.sample_writer import (
    CocoWriter,
    build_atomically,
    builder_parser,
    main_guard,
    mask_to_rle,
    sha256_of,
)
from densessl.errors import DataError

STAMPS_PACKAGE, PHOTOS_PACKAGE = "tuxpaint-stamps-default", "gcompris-qt-data"
STAMPS_FOLDER = "usr/share/tuxpaint/stamps"
# Monuments only: the package's animal and music photographs would hold unlabelled objects of our classes.
PHOTOS_FILE = "usr/share/gcompris-qt/rcc/explore_monuments.rcc"
CLASSES = {
    "bird": ("animals/birds/",),
    "mammal": ("animals/mammals/", "animals/marsupials/"),
    "fish": ("animals/fish/",),
    "insect": ("animals/insects/",),
    "flower": ("plants/flowers/",),
    "fruit": ("food/fruit/", "food/vegetables/"),
    "instrument": ("hobbies/music/",),
    "vehicle": ("vehicles/", "military/vehicles/"),
    "coin": ("symbols/money/",),
}
DEFAULT_CLASSES = tuple(name for name in CLASSES if name != "coin")
# Drawings and toys that pass the statistical filter live in these folders ...
DROPPED_FOLDERS = ("cartoon", "toys")
# ... and these are mirrored copies of other files, which would be in both splits, or no member of the class.
DROPPED_FILES = (
    "military/vehicles/bradley_mirror.png",
    "vehicles/construction/dumper_mirror.png",
    "animals/fish/lobster.png",
    "animals/insects/Brown_slug.png",
    "animals/insects/Woodlouse.png",
)
HELD_OUT_PERIOD = 4  # every fourth cut-out and background is for validation
SPLITS = ("train", "val")
PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Recipe:
    """How pictures are composed.

    Attributes:
        size: side of the square pictures, pixels.
        objects: least and greatest number of cut-outs in a picture.
        scale: least and greatest longer side of a cut-out, as a fraction of `size`.
        max_occlusion: greatest hidden or cut-off fraction of an object, in [0, 1).
        seed: of all random draws.
    """

    size: int
    objects: tuple[int, int]
    scale: tuple[float, float]
    max_occlusion: float
    seed: int


@dataclass
class Placed:
    """One pasted object: class index, file name, mask (size, size) of what shows, pixels of the whole."""

    category: int
    name: str
    mask: np.ndarray
    full_area: int


def fetch_deb(package: str, folder: Path) -> Path:
    """Downloads a Debian package into `folder` with apt-get.

    Raises:
        DataError: there is no apt-get, or it failed.
    """
    option = "--stamps-deb" if package == STAMPS_PACKAGE else "--photos-deb"
    if shutil.which("apt-get") is None:
        raise DataError(
            f"no apt-get here to download {package}; pass the .deb with {option}, or use `coral`."
        )
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
    files = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["no file"])[-1]
        raise DataError(
            f"apt-get download {package} failed: {reason}. Run `apt-get update` as root, pass the .deb with "
            f"{option}, or use `coral`, which needs pip only."
        )
    return files[0]


def unpack_deb(deb: Path, folder: Path) -> Path:
    """Unpacks the files of a .deb below `folder` (nothing of it is run) and returns `folder`."""
    if shutil.which("dpkg-deb") is None:
        raise DataError(f"{deb}: dpkg-deb is needed to unpack it (package dpkg).")
    done = subprocess.run(["dpkg-deb", "-x", str(deb), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{deb}: dpkg-deb could not unpack it: {done.stderr.strip()}")
    return folder


def is_photographic(cutout: Image.Image) -> bool:
    """Whether an RGBA cut-out is a photograph: enough pixels, really cut out, and many distinct colours."""
    pixels = np.asarray(cutout)
    inside = pixels[..., 3] > 127
    count = int(inside.sum())
    if min(cutout.size) < 64 or count < 2000 or count >= 0.97 * inside.size:
        return False
    distinct = len(np.unique(pixels[inside][:, :3].astype(np.int32) @ (65536, 256, 1)))
    return distinct > 4000 and distinct > 0.12 * count


def load_cutouts(stamps: Path, classes: Sequence[str]) -> list[list[tuple[str, Image.Image]]]:
    """For each class, its (relative name, RGBA picture cut to its outline), sorted by name.

    Raises:
        DataError: a class with too few cut-outs to hold one out.
    """
    result = []
    for name in classes:
        found = []
        files = (p for prefix in CLASSES[name] for p in (stamps / prefix).rglob("*.png"))
        for path in sorted(files):
            relative = path.relative_to(stamps).as_posix()
            if relative in DROPPED_FILES or any(part in DROPPED_FOLDERS for part in path.parts):
                continue
            picture = Image.open(path).convert("RGBA")
            if is_photographic(picture):
                outline = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
                found.append((relative, picture.crop(outline)))
        if len(found) < HELD_OUT_PERIOD:
            raise DataError(
                f"{stamps}: class {name!r} has {len(found)} cut-outs, at least {HELD_OUT_PERIOD} needed."
            )
        result.append(found)
    return result


def load_webp_photographs(path: Path) -> list[Image.Image]:
    """RGB pictures of all WebP files stored in a Qt resource file, found by their RIFF header."""
    if not path.is_file():
        raise DataError(f"{path}: missing in the package; is it {PHOTOS_PACKAGE}?")
    data, start, pictures = path.read_bytes(), 0, []
    while (start := data.find(b"RIFF", start)) >= 0:
        # RIFF container: 4 bytes tag, 4 bytes length of what follows (little endian), 4 bytes form type
        length = 8 + struct.unpack("<I", data[start + 4 : start + 8])[0]
        if data[start + 8 : start + 12] == b"WEBP":
            pictures.append(Image.open(io.BytesIO(data[start : start + length])).convert("RGB"))
            start += length
        else:
            start += 4
    if len(pictures) < HELD_OUT_PERIOD:
        raise DataError(f"{path}: {len(pictures)} WebP photographs found, at least {HELD_OUT_PERIOD} needed.")
    return pictures


def select_split(items: Sequence, split: str) -> list:
    """The items of a split: every HELD_OUT_PERIOD-th, counted from the last of the first period, is "val"."""
    held_out = split == "val"
    return [x for i, x in enumerate(items) if (i % HELD_OUT_PERIOD == HELD_OUT_PERIOD - 1) == held_out]


def random_background(picture: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square crop, half to all of the short side, resized to `size`."""
    side = int(min(picture.size) * rng.uniform(0.5, 1.0))
    x = int(rng.integers(picture.width - side + 1))
    y = int(rng.integers(picture.height - side + 1))
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))


def random_pose(cutout: Image.Image, recipe: Recipe, rng: np.random.Generator) -> Image.Image:
    """The cut-out flipped half of the time, turned by up to 15 degrees and scaled."""
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    factor = rng.uniform(*recipe.scale) * recipe.size / max(cutout.size)
    width, height = (max(1, round(length * factor)) for length in cutout.size)
    return cutout.resize((width, height), Image.Resampling.LANCZOS)


def place(
    pose: Image.Image, objects: list[Placed], recipe: Recipe, rng: np.random.Generator
) -> Image.Image | None:
    """Finds a place for `pose` where no object loses more than `max_occlusion`.

    Returns:
        A transparent (size, size) RGBA layer with the pose, or None when PLACEMENT_TRIES places failed.
    """
    full_area = int((np.asarray(pose.getchannel("A")) > 127).sum())
    for _ in range(PLACEMENT_TRIES):
        centre = rng.uniform(0, recipe.size, 2)
        layer = Image.new("RGBA", (recipe.size, recipe.size))
        layer.paste(pose, (round(centre[0] - pose.width / 2), round(centre[1] - pose.height / 2)))
        mask = np.asarray(layer.getchannel("A")) > 127
        least = 1 - recipe.max_occlusion
        hides_none = all((o.mask & ~mask).sum() >= max(1, least * o.full_area) for o in objects)
        if hides_none and mask.sum() >= max(1, least * full_area):
            return layer
    return None


def compose(
    background: Image.Image,
    cutouts: Sequence[Sequence[tuple[str, Image.Image]]],
    recipe: Recipe,
    rng: np.random.Generator,
) -> tuple[Image.Image, list[Placed]]:
    """Pastes cut-outs, classes drawn evenly, one over the other.

    Args:
        background: RGB, (size, size).
        cutouts: per class, (name, RGBA) of this split.
        recipe: numbers and sizes.
        rng: all randomness.

    Returns:
        The picture and its objects; masks are disjoint and none is empty.
    """
    canvas = background.convert("RGBA")
    objects: list[Placed] = []
    for _ in range(int(rng.integers(recipe.objects[0], recipe.objects[1] + 1))):
        category = int(rng.integers(len(cutouts)))
        name, cutout = cutouts[category][int(rng.integers(len(cutouts[category])))]
        pose = random_pose(cutout, recipe, rng)
        layer = place(pose, objects, recipe, rng)
        if layer is None:
            continue  # the picture is full
        canvas.alpha_composite(layer)
        mask = np.asarray(layer.getchannel("A")) > 127
        for earlier in objects:
            earlier.mask &= ~mask
        full_area = int((np.asarray(pose.getchannel("A")) > 127).sum())
        objects.append(Placed(category, name, mask.copy(), full_area))
    return canvas.convert("RGB"), objects


def write_split(
    folder: Path,
    split: str,
    count: int,
    classes: Sequence[str],
    cutouts: Sequence[Sequence[tuple[str, Image.Image]]],
    photographs: Sequence[Image.Image],
    recipe: Recipe,
) -> str:
    """Composes and writes the pictures of one split; returns its summary."""
    writer = CocoWriter(folder, split, classes, f"{STAMPS_PACKAGE} on {PHOTOS_PACKAGE}")
    own_cutouts = [select_split(of_class, split) for of_class in cutouts]
    own_photographs = select_split(photographs, split)
    for index in range(count):
        rng = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
        photograph = own_photographs[int(rng.integers(len(own_photographs)))]
        background = random_background(photograph, recipe.size, rng)
        picture, objects = compose(background, own_cutouts, recipe, rng)
        image_id = writer.add_image(picture, f"{split}_{index:05d}.jpg")
        for item in objects:
            visible = round(int(item.mask.sum()) / item.full_area, 4)
            writer.add_instance(
                image_id, item.category, mask_to_rle(item.mask), cutout=item.name, visible_fraction=visible
            )
    counts = writer.write()
    return f"{split} {count} pictures, {sum(counts.values())} instances {counts}"


def read_packages(
    stamps_deb: Path | None, photos_deb: Path | None, classes: Sequence[str]
) -> tuple[list[list[tuple[str, Image.Image]]], list[Image.Image], str]:
    """Fetches (where not given) and reads both packages: cut-outs, photographs, and the licence note."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, notes = Path(temporary), []
        for package, given in ((STAMPS_PACKAGE, stamps_deb), (PHOTOS_PACKAGE, photos_deb)):
            if given is not None and not given.is_file():
                raise DataError(f"{given}: no such file; expected a .deb of {package}.")
            deb = given if given is not None else fetch_deb(package, folder)
            unpack_deb(deb, folder / package)
            notes.append(f"{package}: {deb.name}, sha256 {sha256_of(deb)}")
            copyright_file = folder / package / "usr/share/doc" / package / "copyright"
            if copyright_file.is_file():
                notes.append(copyright_file.read_text())
        cutouts = load_cutouts(folder / STAMPS_PACKAGE / STAMPS_FOLDER, classes)
        photographs = load_webp_photographs(folder / PHOTOS_PACKAGE / PHOTOS_FILE)
    return cutouts, photographs, "\n\n".join(notes) + "\n"


def build(
    folder: Path,
    recipe: Recipe,
    counts: dict[str, int],
    classes: Sequence[str],
    stamps_deb: Path | None,
    photos_deb: Path | None,
) -> str:
    """Fills `folder` with the data set and returns its one-line description."""
    cutouts, photographs, licence = read_packages(stamps_deb, photos_deb, classes)
    parts = [
        write_split(folder, split, counts[split], classes, cutouts, photographs, recipe) for split in SPLITS
    ]
    head = "Composed from files of two Debian packages; the cut-outs' GPL-2 covers the compositions.\n\n"
    (folder / "LICENSE.txt").write_text(head + licence)
    return f"cutpaste ({recipe}): " + "; ".join(parts)


def parse_args() -> argparse.Namespace:
    """Command line, with everything that can be wrong in it checked."""
    parser = builder_parser(__doc__, "cutpaste")
    parser.add_argument("--images", type=int, default=400, help="training pictures")
    parser.add_argument("--val-images", type=int, default=80, help="validation pictures")
    parser.add_argument("--size", type=int, default=320, help="side of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", default=",".join(DEFAULT_CLASSES), help=f"some of {','.join(CLASSES)}")
    parser.add_argument("--objects", type=int, nargs=2, default=(2, 6), metavar=("MIN", "MAX"))
    parser.add_argument(
        "--scale",
        type=float,
        nargs=2,
        default=(0.2, 0.6),
        metavar=("MIN", "MAX"),
        help="of the picture's side",
    )
    parser.add_argument("--max-occlusion", type=float, default=0.5, help="hidden fraction allowed, 0 to 1")
    parser.add_argument("--stamps-deb", type=Path, help=f"a .deb of {STAMPS_PACKAGE}, if already on disk")
    parser.add_argument("--photos-deb", type=Path, help=f"a .deb of {PHOTOS_PACKAGE}, if already on disk")
    args = parser.parse_args()
    args.classes = args.classes.split(",")
    unknown = [name for name in args.classes if name not in CLASSES]
    if unknown or len(set(args.classes)) != len(args.classes):
        parser.error(f"--classes: {unknown or 'a name twice'}; choose from {','.join(CLASSES)}")
    if args.images < 1 or args.val_images < 1 or args.size < 32:
        parser.error("--images and --val-images must be at least 1, --size at least 32")
    if not 1 <= args.objects[0] <= args.objects[1] or not 0 < args.scale[0] <= args.scale[1] <= 1:
        parser.error("--objects and --scale need MIN <= MAX, objects at least 1, scale within (0, 1]")
    if not 0 <= args.max_occlusion < 1:
        parser.error("--max-occlusion must be in [0, 1)")
    return args


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    args = parse_args()
    recipe = Recipe(args.size, tuple(args.objects), tuple(args.scale), args.max_occlusion, args.seed)
    counts = {"train": args.images, "val": args.val_images}
    return build_atomically(
        args.output,
        lambda folder: build(folder, recipe, counts, args.classes, args.stamps_deb, args.photos_deb),
    )


if __name__ == "__main__":
    main_guard(main)
