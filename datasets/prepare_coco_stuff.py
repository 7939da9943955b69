"""Builds a curated list of COCO images from their label images, by the published rule.

    python datasets/prepare_coco_stuff.py [--root datasets/coco] [--split train2017 val2017] [--jobs N]

An image is taken when both sides have at least 360 pixels and at least 75 % of its pixels are stuff
(xu-ji/IIC code/datasets/segmentation/util/coco164k_prepare.py:122-198). Writes
`<root>/curated/<split>/Coco164kFull_Stuff_Coarse_7.txt`, sorted, and says whether it is the published list
(49,629 and 2,175 images).
"""

import argparse
import hashlib
import os
from multiprocessing import Pool
from pathlib import Path

from densessl.data.datasets.builtin import dataset_path
from densessl.data.datasets.coco_stuff import coco_stuff_classes, is_curated
from densessl.data.datasets.sample_writer import main_guard
from densessl.data.datasets.semantic import CURATED_LIST
from densessl.data.semantic_labels import decode_labels
from densessl.errors import DataError


def accepted(path: str) -> bool:
    """Whether the rule takes the image of a label file."""
    return is_curated(decode_labels(path))


def build(root: Path, split: str, jobs: int) -> str:
    """Writes the list of one split; returns what to say about it."""
    labels = root / "stuffthingmaps" / split
    paths = sorted(map(str, labels.glob("*.png")))
    if not paths:
        raise DataError(f"no label images in {labels}; datasets/README.md shows the tree")
    with Pool(jobs) as pool:
        taken = pool.map(accepted, paths, chunksize=64)
    ids = [Path(path).stem for path, keep in zip(paths, taken) if keep]
    if not ids:
        raise DataError(f"none of the {len(paths)} label images in {labels} is taken by the rule")
    text = "".join(f"{image}\n" for image in ids)
    path = root / "curated" / split / CURATED_LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
    known = coco_stuff_classes()["curated_lists"][split]["sha256"]
    same = hashlib.sha256(text.encode()).hexdigest() == known
    judgement = "the published list" if same else "not the published list: other files, or a part of COCO"
    return f"{path}: {len(ids)} of {len(paths)} images; {judgement}"


def main() -> str:
    """Parses the command line and writes the list; returns what was written, in words."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=None, help="folder of COCO (coco below DETECTRON2_DATASETS)"
    )
    parser.add_argument(
        "--split", nargs="+", choices=("train2017", "val2017"), default=["train2017", "val2017"]
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    args = parser.parse_args()
    root = Path(dataset_path("coco")) if args.root is None else args.root.expanduser()
    return "\n".join(build(root, split, max(1, args.jobs)) for split in args.split)


if __name__ == "__main__":
    main_guard(main)
