"""Builds `coral_lvis`: the `coral` sample with annotations in the format of LVIS v1.

    python datasets/prepare_coral.py
    python datasets/prepare_coral_lvis.py [--output datasets/coral_lvis]

LVIS says for each image which classes it was searched for: those annotated, `neg_category_ids` (none is
there) and `not_exhaustive_category_ids` (some are annotated, not all). `coral` is annotated completely, so
any part of that knowledge is true; here two of three absent classes of an image are said to be absent, and
one of ten present ones is said to be incomplete. `frequency` counts training images as LVIS does: r up to 10,
c up to 100, f above. The images stay where `coral` has them.
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path

from densessl.data.datasets.sample_writer import build_atomically, builder_parser, dataset_root, main_guard
from densessl.errors import DataError


def to_lvis(document: dict, split: str, images_of_class: Counter) -> dict:
    """A COCO document with polygons as one of LVIS.

    Args:
        document: COCO.
        split: folder of the images below the image root.
        images_of_class: category id -> training images that show it.
    """
    categories = [
        {**category, "frequency": frequency(images_of_class[category["id"]])}
        for category in document["categories"]
    ]
    ids = [category["id"] for category in categories]
    present = classes_by_image(document)
    images = []
    for image in document["images"]:
        number, here = image["id"], present.get(image["id"], set())
        url = f"http://none/{split}/{image['file_name']}"
        known = {
            "neg_category_ids": [c for c in ids if c not in here and (number + c) % 3],
            "not_exhaustive_category_ids": [c for c in ids if c in here and (number + c) % 10 == 0],
        }
        images.append({**image, "coco_url": url, **known})
    annotations = [
        {key: value for key, value in annotation.items() if key != "iscrowd"}
        for annotation in document["annotations"]
    ]
    return {**document, "categories": categories, "images": images, "annotations": annotations}


def frequency(images: int) -> str:
    """LVIS's letter for a class that `images` training images show (section 2.1 of the paper)."""
    return "r" if images <= 10 else "c" if images <= 100 else "f"


def classes_by_image(document: dict) -> dict[int, set[int]]:
    """Image id -> category ids annotated there."""
    present: dict[int, set[int]] = {}
    for annotation in document["annotations"]:
        present.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return present


def build(folder: Path, coral: Path) -> str:
    """Fills `folder` and returns its one-line description."""
    documents = {}
    for split in ("train", "val"):
        path = coral / "annotations" / f"instances_{split}.json"
        if not path.is_file():
            raise DataError(f"{path}: not found. Build it with `python datasets/prepare_coral.py`.")
        documents[split] = json.loads(path.read_text())
    counts = Counter(c for here in classes_by_image(documents["train"]).values() for c in here)
    (folder / "annotations").mkdir()
    for split, document in documents.items():
        text = json.dumps(to_lvis(document, split, counts))
        (folder / "annotations" / f"lvis_{split}.json").write_text(text)
    (folder / "LICENSE.txt").write_text((coral / "LICENSE.txt").read_text())
    groups = Counter(frequency(count) for count in counts.values())
    kinds = f"{groups['r']} rare, {groups['c']} common, {groups['f']} frequent classes"
    return f"coral_lvis: annotations of coral in the format of LVIS v1, {kinds}"


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    parser = builder_parser(__doc__, "coral_lvis")
    default = dataset_root() / "coral"
    parser.add_argument("--coral", type=Path, default=default, help=f"the sample coral ({default})")
    arguments = parser.parse_args()
    return build_atomically(arguments.output, partial(build, coral=arguments.coral))


if __name__ == "__main__":
    main_guard(main)
