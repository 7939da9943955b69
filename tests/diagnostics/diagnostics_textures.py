"""Photographed textures on photographed textures, with exact labels: what 150 steps can learn from.

Each picture has a background of one texture and a rectangle of another. The texture is the class; its scale,
tone and place are random. Training pictures are cut from the left halves of the photographs, held-out ones
from the right halves. Not a test itself.
"""

from pathlib import Path

import numpy as np
import skimage
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

TEXTURES = ("brick", "grass", "gravel", "ihc", "coins")  # in the wheel of scikit-image
SIZE = 64


def read_textures(held_out: bool) -> list[np.ndarray]:
    """One half of each photograph, (H, W) uint8 gray."""
    folder, halves = Path(skimage.__file__).parent / "data", []
    for name in TEXTURES:
        pixels = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        middle = pixels.shape[1] // 2
        halves.append(pixels[:, middle:] if held_out else pixels[:, :middle])
    return halves


def cut(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE) float: a random square of random scale, in a random tone."""
    side = int(rng.integers(SIZE, min(2 * SIZE, *texture.shape) + 1))
    y, x = (int(rng.integers(0, length - side + 1)) for length in texture.shape)
    square = Image.fromarray(texture[y : y + side, x : x + side]).resize((SIZE, SIZE), Image.BILINEAR)
    values = np.asarray(square, float)
    return (values - values.mean()) * rng.uniform(0.7, 1.3) + rng.uniform(80, 170)


def build(folder: Path, name: str, count: int, seed: int, held_out: bool) -> str:
    """Writes `count` pictures and registers them as `name`: semantic maps, and the rectangles as objects."""
    rng, records, halves = np.random.default_rng(seed), [], read_textures(held_out)
    for index in range(count):
        back, front = rng.choice(len(TEXTURES), 2, replace=False)
        x0, y0 = (8 * rng.integers(0, 5, 2)).tolist()
        width, height = (8 * rng.integers(3, 5, 2)).tolist()
        box = [x0, y0, min(x0 + width, SIZE), min(y0 + height, SIZE)]
        inside = np.zeros((SIZE, SIZE), bool)
        inside[box[1] : box[3], box[0] : box[2]] = True
        pixels = np.where(inside, cut(halves[front], rng), cut(halves[back], rng)).clip(0, 255)
        files = [folder / f"{name}_{index:03d}{end}" for end in (".png", "_labels.png")]
        Image.fromarray(np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=2)).save(files[0])
        Image.fromarray(np.where(inside, front, back).astype(np.uint8)).save(files[1])
        found = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": int(front), "iscrowd": 0}
        records.append(
            {"file_name": str(files[0]), "sem_seg_file_name": str(files[1]), "image_id": index}
            | {"height": SIZE, "width": SIZE, "annotations": [found]}
        )
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=list(TEXTURES), thing_classes=list(TEXTURES))
    return name
