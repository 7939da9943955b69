"""Registers the sample data sets that `datasets/prepare_*.py` build.

`coral_train`, `coral_val`, `cutpaste_train`, `cutpaste_val`: instances and semantic maps;
`coral_lvis_train`, `coral_lvis_val`: coral with annotations in the format of LVIS (root read at import);
`photos`: unlabelled photographs; `stereo`: one picture pair with true disparity. The root is
DETECTRON2_DATASETS or `./datasets`, read when a data set is loaded, so that
setting the variable after the import still works.
"""

import json
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from densessl.data.datasets.lvis import register_lvis_instances
from densessl.data.datasets.sample_writer import CHECKSUMS, dataset_root
from densessl.errors import DataError

IGNORE_LABEL = 255


def load_sample(name: str, folder: str, split: str) -> list[dict]:
    """Loads one split of an annotated sample as detectron2 records with `sem_seg_file_name`.

    Category ids become 0..C-1; the metadata of `name` gets `thing_classes`,
    `thing_dataset_id_to_contiguous_id` and `json_file` (for evaluation), and `stuff_classes` for the
    semantic maps, where 0 is background.

    Raises:
        DataError: the data set has not been built.
    """
    root = dataset_root() / folder
    annotations = require_built(root / "annotations" / f"instances_{split}.json", folder)
    records = load_coco_json(str(annotations), str(root / "images" / split), name)
    for record in records:
        stem = Path(record["file_name"]).stem
        record["sem_seg_file_name"] = str(root / "semantic" / split / f"{stem}.png")
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=str(annotations),
        image_root=str(root / "images" / split),
        stuff_classes=["background", *metadata.thing_classes],
    )
    return records


def load_photos() -> list[dict]:
    """Loads the photographs of scikit-image: `file_name` and `image_id`, by name.

    Raises:
        DataError: the data set has not been built.
    """
    root = dataset_root() / "photos"
    require_built(root / CHECKSUMS, "photos")
    files = sorted((root / "images").iterdir())
    return [{"file_name": str(path), "image_id": index + 1} for index, path in enumerate(files)]


def load_stereo() -> list[dict]:
    """Loads the stereo pair: `file_name` is the left picture, then `right_file_name`, `disparity_file_name`.

    Raises:
        DataError: the data set has not been built.
    """
    root = dataset_root() / "stereo"
    facts = json.loads(require_built(root / "stereo.json", "stereo").read_text())
    return [
        {
            "file_name": str(root / facts["left"]),
            "right_file_name": str(root / facts["right"]),
            "disparity_file_name": str(root / facts["disparity"]),
            "height": facts["height"],
            "width": facts["width"],
            "image_id": 1,
        }
    ]


def require_built(path: Path, folder: str) -> Path:
    """Returns `path` if it is a file; otherwise a DataError names the command that builds it."""
    if not path.is_file():
        raise DataError(
            f"{path}: not found. Build it with `python datasets/prepare_{folder}.py`, or set "
            "DETECTRON2_DATASETS to the folder that holds it."
        )
    return path


def register_samples() -> None:
    """Registers all names; nothing is read until a data set is loaded."""
    for folder in ("coral", "cutpaste"):
        for split in ("train", "val"):
            name = f"{folder}_{split}"
            DatasetCatalog.register(name, partial(load_sample, name, folder, split))
            MetadataCatalog.get(name).set(evaluator_type="coco", ignore_label=IGNORE_LABEL)
    DatasetCatalog.register("photos", load_photos)
    DatasetCatalog.register("stereo", load_stereo)
    register_coral_lvis(dataset_root())


def register_coral_lvis(root: Path) -> None:
    """Registers `coral_lvis_train` and `coral_lvis_val`, annotations of `coral` in the format of LVIS."""
    for split in ("train", "val"):
        path = root / "coral_lvis/annotations" / f"lvis_{split}.json"
        register_lvis_instances(f"coral_lvis_{split}", str(path), str(root / "coral/images"))
        command = "python datasets/prepare_coral.py && python datasets/prepare_coral_lvis.py"
        MetadataCatalog.get(f"coral_lvis_{split}").set(how_to_build=f"Build it with `{command}`")


register_samples()
