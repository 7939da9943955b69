"""Checks annotation files before anything is built, and leaves faulty entries out by request.

detectron2 asserts, drops or trains on what it finds; here every data set in the COCO or LVIS format that a
run names is read once, on the main process, and the run stops with one message or goes on with a list.
"""

import gc
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from densessl.data.datasets.annotation_faults import (
    BLEMISHES,
    MISSING,
    POLYGON,
    TWICE,
    Fault,
    annotation_faults,
    check_form,
    file_name,
    image_faults,
)
from densessl.data.datasets.guard import guard_annotations
from densessl.data.datasets.lvis import load_lvis_json, lvis_faults
from densessl.errors import DataError

logger = logging.getLogger(__name__)
POLICIES = ("raise", "drop")
FILE_NAME = "bad_annotations.jsonl"
FORMATS = {"coco": load_coco_json, "lvis": load_lvis_json}  # by the metadata's evaluator_type
TOLERATED_SHARE = 1e-3  # of the annotations may be BLEMISHES; COCO has 2 in 860,001
SAMPLED_FILES = 200  # images whose files are looked for; all of them where faulty ones are to be left out
_LISTED = 3


def check_annotations(name: str, policy: str, output_dir: str, *, training: bool) -> list[str] | None:
    """Checks a registered data set; to be called on all ranks.

    Faults stop the run under the policy "raise", except that a share of up to TOLERATED_SHARE of BLEMISHES,
    which COCO itself has, is only reported. Under "drop" faulty annotations, and faulty images with their
    annotations, are left out: the data set is then loaded from `<output_dir>/annotations/<name>.json`, for
    training and for evaluation. Either way what does not stop the run is counted in the log and listed in
    `<output_dir>/bad_annotations.jsonl`.

    Args:
        name: of a data set. Those that were not registered with annotations in the COCO or LVIS format (VOC,
            Cityscapes, samples built here) are not checked.
        policy: of POLICIES.
        training: there must be instances; otherwise the annotations must serve for evaluation, or be absent.

    Returns:
        class names in the order of their ids; None if the data set was not checked.

    Raises:
        DataError: on all ranks.
    """
    metadata = MetadataCatalog.get(name)
    kind, path = metadata.get("evaluator_type"), metadata.get("json_file")
    if kind not in FORMATS or path is None or metadata.get("image_root") is None:
        return None
    outcome = None
    if comm.is_main_process():
        check = _Check(name, kind, path, metadata.image_root, policy, output_dir, training)
        try:
            outcome = (check.run(), None)
        except DataError as error:
            outcome = (None, str(error))
    (result, error), *_ = [value for value in comm.all_gather(outcome) if value is not None]
    if error is not None:
        raise DataError(error)
    classes, cleaned = result
    if cleaned is not None:
        _load_from(name, kind, cleaned)
    return classes


class _Check:
    def __init__(
        self, name: str, kind: str, path: str, root: str, policy: str, output_dir: str, training: bool
    ) -> None:
        self.name, self.path, self.root, self.policy = name, path, root, policy
        self.lvis, self.training, self.output_dir = kind == "lvis", training, Path(output_dir)
        self.what = f"data set {name!r} ({path})"

    def run(self) -> tuple[list[str], str | None]:
        """Class names, and the path of the cleaned file if there is one."""
        document = self._read()
        check_form(document, self.what)
        faults = list(image_faults(document["images"], self.lvis))
        faults += self._missing_files(document["images"], {fault.index for fault in faults})
        images = _without(document["images"], faults)
        total = len(document.get("annotations", ()))
        faults += annotation_faults(document, images, lvis=self.lvis, evaluated=not self.training)
        cleaned = self._judge(faults, total, document) if faults else None
        self._check_rest(document)
        if cleaned is not None:
            _write(cleaned, document)
        categories = sorted(document["categories"], key=lambda category: category["id"])
        return [category["name"] for category in categories], None if cleaned is None else str(cleaned)

    def _read(self) -> dict:
        collecting = gc.isenabled()
        gc.disable()  # millions of small objects, none of them garbage: 11 s in place of 19 for COCO's 480 MB
        try:
            with PathManager.open(self.path) as stream:
                return json.load(stream)
        except (OSError, ValueError, RecursionError) as error:
            size = f", {os.path.getsize(self.path):,} bytes" if os.path.isfile(self.path) else ""
            raise DataError(
                f"{self.what}{size} cannot be read: {type(error).__name__}: {error}. It is missing, cut "
                "off or no JSON: copy it again, or rebuild the data set."
            ) from error
        finally:
            if collecting:
                gc.enable()

    def _missing_files(self, images: Sequence[dict], faulty: set[int]) -> list[Fault]:
        """Image files that are not there: of an even sample, or of all images where they are left out."""
        sound = [index for index in range(len(images)) if index not in faulty]
        step = 1 if self.policy == "drop" else max(1, len(sound) // SAMPLED_FILES)
        paths = {i: os.path.join(self.root, file_name(images[i], self.lvis)) for i in sound[::step]}
        return [
            Fault("images", index, MISSING, f"image {images[index]['id']}: {path}")
            for index, path in paths.items()
            if not PathManager.exists(path)
        ]

    def _judge(self, faults: list[Fault], total: int, document: dict) -> Path | None:
        """Raises or reports; "drop" removes from the document and returns where to write it."""
        summary = summarize(faults)
        survived = set(BLEMISHES)
        if self.lvis:  # its loader takes no instance without a polygon
            survived.remove(POLYGON)
        if "minival" in Path(self.path).name:  # COCO 2014's repeats ids; detectron2 lets it pass as well
            survived.add(TWICE)
        grave = [fault for fault in faults if fault.kind not in survived]
        few = len(faults) - len(grave) <= TOLERATED_SHARE * total
        if self.policy != "drop" and (grave or not few):
            raise DataError(
                f"{self.what}, {len(document['images'])} images and {total} annotations: {summary}\n"
                "Correct the file, or leave these entries out with train.bad_annotations=drop."
            )
        self._list(faults)
        place = self.output_dir / FILE_NAME
        if self.policy != "drop":
            logger.warning("%s: %s\nFew enough to go on; all are listed in %s.", self.what, summary, place)
            return None
        for entry in document.keys() & {"images", "annotations"}:
            document[entry] = _without(document[entry], [f for f in faults if f.entry == entry])
        logger.warning("%s: left out %s\nAll are listed in %s.", self.what, summary, place)
        return self.output_dir / "annotations" / f"{self.name}.json"

    def _list(self, faults: Sequence[Fault]) -> None:
        """Adds the faults to the run's list, once each, however often the run is resumed."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / FILE_NAME
        lines = path.read_text().splitlines() if path.exists() else []
        for fault in faults:
            line = {"data_set": self.name, "kind": fault.kind, "entry": fault.detail}
            lines.append(json.dumps({**line, "left_out": self.policy == "drop"}))
        path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))

    def _check_rest(self, document: dict) -> None:
        """What is left must be enough to train or evaluate with."""
        instances = [a for a in document.get("annotations", ()) if not a.get("iscrowd", 0)]
        if not document["images"] or (self.training and not instances):
            crowds = len(document.get("annotations", ())) - len(instances)
            use = "train on" if self.training else "evaluate on"
            raise DataError(
                f"{self.what} has nothing to {use}: {len(document['images'])} images, {len(instances)} "
                f"instances, {crowds} crowd regions. Name another data set, or rebuild this file."
            )
        faults = lvis_faults(document) if self.lvis and not self.training else []
        if faults:
            raise DataError(f"{self.what} is not a file for LVIS evaluation: {faults[0]}.")


def summarize(faults: Sequence[Fault]) -> str:
    """One line for each kind of fault: how many, and the first of them."""
    lines = []
    for kind, count in Counter(fault.kind for fault in faults).items():
        first = [fault.detail for fault in faults if fault.kind == kind][:_LISTED]
        more = f"; and {count - len(first)} more" if count > len(first) else ""
        lines.append(f"\n  {count} {kind}: {'; '.join(first)}{more}")
    return f"{len(faults)} faulty entries:{''.join(lines)}"


def _without(entries: Sequence[dict], faults: Sequence[Fault]) -> list[dict]:
    left_out = {fault.index for fault in faults}
    return [entry for index, entry in enumerate(entries) if index not in left_out]


def _write(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".part")
    with open(partial_path, "w") as stream:
        json.dump(document, stream)
    partial_path.replace(path)


def _load_from(name: str, kind: str, path: str) -> None:
    """Makes the data set load another file, and evaluators read it."""
    metadata = MetadataCatalog.get(name)
    del metadata.json_file  # metadata refuses a second value
    metadata.json_file = path
    DatasetCatalog[name] = partial(FORMATS[kind], path, metadata.image_root, name)
    guard_annotations(name)
