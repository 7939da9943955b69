"""Draws lists of 1, 2, 5 and 10 percent of the images of COCO, or of any file in COCO's format.

    python datasets/prepare_coco_subset.py                      # the four lists of COCO train2017, seed 0
    python datasets/prepare_coco_subset.py --seed 1             # another draw
    python datasets/prepare_coco_subset.py --json datasets/coral/annotations/instances_train.json --percent 25

Beside instances_train2017.json it writes instances_train2017_1pct.json, ..., with the seed in the name if it
is not 0 (instances_train2017_10pct_seed1.json). Images are drawn uniformly: their ids in ascending order are
permuted by the seed (raw words of PCG64, the same in every version of numpy) and the first ones taken, so the
lists of a seed lie in each other. All annotations of the drawn images are kept, and all categories. The same
file, percentage and seed give the same bytes on every machine; `info.subset` says what they were.

COCO train2017 has 118,287 images: 1,183, 2,366, 5,914 and 11,829. The names are coco_2017_train_1pct,
coco_2017_train_10pct_seed1, ... for the seeds 0 to 4. DenseCL's own 10 % list (coco_2017_train_0.1 in its
benchmarks/detection/train_net.py) was never released, nor was its config (DenseCL issue 17).
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from densessl.data.datasets.annotation_faults import check_form
from densessl.data.datasets.coco_subsets import PERCENTS, read_document, subset_document, subset_suffix
from densessl.data.datasets.sample_writer import dataset_root, main_guard
from densessl.errors import DataError


def build(source: Path, percents: list[float], seed: int) -> str:
    """Writes one list for each percentage beside `source`; returns a line for each."""
    if seed < 0 or not all(0 < percent <= 100 for percent in percents):
        raise DataError(f"--percent {percents} --seed {seed}: percentages in (0, 100] and a seed from 0 on.")
    document = read_document(source)
    check_form(document, str(source))
    if "annotations" not in document:
        raise DataError(f"{source}: has no annotations; name a COCO file that has with --json.")
    require_ids(document, source)
    lines = []
    for percent in percents:
        subset = subset_document(document, percent, seed, source.name)
        path = source.with_name(f"{source.stem}{subset_suffix(percent, seed)}.json")
        write_atomically(path, json.dumps(subset))
        lines.append(f"{path}: {len(subset['images'])} images, {len(subset['annotations'])} annotations")
    return "\n".join(lines)


def require_ids(document: dict, source: Path) -> None:
    """Raises DataError unless every image has an id of its own and every annotation says its image."""
    ids = Counter(image.get("id") for image in document["images"])
    twice = [name for name, count in ids.items() if count > 1 and name is not None]
    homeless = sum("image_id" not in annotation for annotation in document["annotations"])
    if None in ids or twice or homeless:
        raise DataError(
            f"{source}: {ids[None]} images without an id, {len(twice)} image ids that occur twice"
            f"{f' (the first is {twice[0]!r})' if twice else ''}, {homeless} annotations without image_id; "
            "correct the file."
        )


def write_atomically(path: Path, text: str) -> None:
    """A stopped build leaves no half of a file under the final name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error}).") from error


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = dataset_root() / "coco/annotations/instances_train2017.json"
    parser.add_argument("--json", type=Path, default=default, help=f"file in COCO's format ({default})")
    parser.add_argument("--percent", type=float, nargs="+", default=PERCENTS, help="of the images")
    parser.add_argument("--seed", type=int, default=0, help="which draw")
    arguments = parser.parse_args()
    return build(arguments.json, list(arguments.percent), arguments.seed)


if __name__ == "__main__":
    main_guard(main)
