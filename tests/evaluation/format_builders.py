"""Small data sets in the formats of Pascal VOC, Cityscapes and COCO keypoints, drawn from a seed."""

import json
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from PIL import Image, ImageDraw

VOC_OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)
CITYSCAPES_IDS = {"road": 7, "person": 24, "car": 26, "bicycle": 33}


def noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture of smooth colours."""
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def write_voc(root: Path, truth: dict[str, list], split: str, size: tuple[int, int] = (200, 150)) -> None:
    """The tree of one year: `truth` maps a picture's number to [(class, (xmin, ymin, xmax, ymax)), ...]."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(truth))
    rng = np.random.default_rng(0)
    for image, objects in truth.items():
        text = "".join(VOC_OBJECT.format(*box, name=name) for name, box in objects)
        shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        (root / f"Annotations/{image}.xml").write_text(f"<annotation>{shape}{text}</annotation>")
        noise(rng, *size).save(root / f"JPEGImages/{image}.jpg")


def write_cityscapes(root: Path, split: str, images: int = 2, size: tuple[int, int] = (192, 96)) -> None:
    """leftImg8bit/ and gtFine/ of one split in one city; each picture has squares of 40 pixels.

    Objects, in the order in which they are drawn: road over everything, a car, a person that hides a part of
    the car, a bicycle, a group of cars (a crowd).
    """
    city = "aachen"
    pictures, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    pictures.mkdir(parents=True)
    truth.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(images):
        name, dx = f"{city}_{index:06d}_000019", 3 * index
        objects = [{"label": "road", "polygon": square(0, 0, *size)}]
        objects.append({"label": "car", "polygon": square(8 + dx, 10, 40)})
        objects.append({"label": "person", "polygon": square(38 + dx, 30, 40)})
        objects.append({"label": "bicycle", "polygon": square(100 + dx, 40, 40)})
        objects.append({"label": "cargroup", "polygon": square(146 + dx, 4, 36)})
        document = {"imgHeight": size[1], "imgWidth": size[0], "objects": objects}
        (truth / f"{name}_gtFine_polygons.json").write_text(json.dumps(document))
        labels, instances = Image.new("L", size), Image.new("I", size)
        for number, item in enumerate(objects):
            label = CITYSCAPES_IDS[item["label"].removesuffix("group")]
            crowd = item["label"].endswith("group") or label < 24
            corners = [tuple(point) for point in item["polygon"]]
            ImageDraw.Draw(labels).polygon(corners, fill=label)
            ImageDraw.Draw(instances).polygon(corners, fill=label if crowd else 1000 * label + number)
        labels.save(truth / f"{name}_gtFine_labelIds.png")
        Image.fromarray(np.asarray(instances).astype(np.uint16)).save(
            truth / f"{name}_gtFine_instanceIds.png"
        )
        noise(rng, *size).save(pictures / f"{name}_leftImg8bit.png")


def square(x: int, y: int, width: int, height: int | None = None) -> list[list[int]]:
    """Corner pixels, which Cityscapes' polygons include."""
    right, bottom = x + width - 1, y + (height or width) - 1
    return [[x, y], [right, y], [right, bottom], [x, bottom]]


def write_keypoints(root: Path, images: int = 6, size: tuple[int, int] = (128, 96), seed: int = 0) -> Path:
    """Pictures in `root`/images and a COCO json of persons with 17 keypoints; returns the json.

    Among them: a crowd, a person none of whose keypoints is labelled, hidden keypoints, persons of all sizes.
    """
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINT_NAMES), "skeleton": []}
    document = {"info": {}, "licenses": [], "images": [], "annotations": [], "categories": [category]}
    for image_id in range(1, images + 1):
        noise(rng, *size).save(root / f"images/{image_id}.jpg")
        document["images"].append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "width": size[0], "height": size[1]}
        )
        for _ in range(int(rng.integers(1, 4))):
            number = len(document["annotations"]) + 1
            document["annotations"].append(person(rng, number, image_id, size))
    document["annotations"][1].update(iscrowd=1, num_keypoints=0, keypoints=[0] * 51)
    document["annotations"][1]["segmentation"] = {
        "size": [size[1], size[0]],
        "counts": [0, size[0] * size[1]],
    }
    document["annotations"][2].update(num_keypoints=0, keypoints=[0] * 51)
    path = root / "keypoints.json"
    path.write_text(json.dumps(document))
    return path


def person(rng: np.random.Generator, number: int, image_id: int, size: tuple[int, int]) -> dict:
    """An annotation: a box, and keypoints in it at whole pixels, a fifth of them not labelled."""
    width, height = rng.uniform(0.15, 0.8, 2) * size
    x, y = rng.uniform(0, 1, 2) * (size[0] - width, size[1] - height)
    places = np.floor(rng.uniform(0, 1, (17, 2)) * (width, height) + (x, y))
    visible = rng.choice([0, 1, 2], 17, p=[0.2, 0.2, 0.6])
    visible[0] = 2
    keypoints = np.column_stack([places * (visible > 0)[:, None], visible]).astype(int)
    box = [float(v) for v in (x, y, width, height)]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": float(0.6 * width * height),
        "iscrowd": 0,
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
        "num_keypoints": int((visible > 0).sum()),
        "keypoints": keypoints.ravel().tolist(),
    }
