"""Squares with parameters or labels, label images, COCO-Stuff's and Cityscapes' trees; what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
from cluster_golden import golden

from densessl.data.build import build_train_loader
from densessl.data.dataset_mappers import ClusterViewMapper, LabelledSquareMapper, collate_cluster_views
from densessl.data.datasets.coco_stuff import is_curated, map_labels
from densessl.data.datasets.semantic import (
    CITYSCAPES_CLASSES,
    build_cityscapes,
    build_coco_stuff,
    build_curated_coco,
    cityscapes_27_labels,
    read_ids,
)
from densessl.data.semantic_labels import decode_labels
from densessl.data.sources import build_image_source
from densessl.data.transforms import FixedOrderPhotometric
from densessl.errors import ConfigError, DataError


def noise(*shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape, dtype=np.uint8)


@pytest.fixture
def coco(tmp_path):
    """Three images with labels; the list names the first two."""
    root = tmp_path / "coco"
    for folder in ("val2017", "stuffthingmaps/val2017", "curated/val2017"):
        (root / folder).mkdir(parents=True)
    for index in (1, 2, 3):
        Image.fromarray(noise(20 + index, 30, 3)).save(root / f"val2017/{index:012d}.jpg")
        Image.fromarray(noise(20 + index, 30, top=182)).save(
            root / f"stuffthingmaps/val2017/{index:012d}.png"
        )
    lines = f"{1:012d}\n{2:012d}\n"
    (root / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt").write_text(lines)
    return root


def test_coco_stuff_records(coco, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco.parent))
    source = build_coco_stuff("val2017")
    assert len(source) == 2
    assert source[1] == {
        "file_name": str(coco / "val2017/000000000002.jpg"),
        "image_id": "val2017/000000000002.jpg",
        "sem_seg_file_name": str(coco / "stuffthingmaps/val2017/000000000002.png"),
    }
    assert len(build_coco_stuff("val2017", list_file="all")) == 3
    images = build_curated_coco("val2017", root=str(coco))
    assert images[0] == {k: v for k, v in source[0].items() if k != "sem_seg_file_name"}


def test_what_is_refused_of_a_coco_tree(coco):
    (coco / "stuffthingmaps/val2017/000000000002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 label images are missing .*000000000002\.png"):
        build_coco_stuff("val2017", root=str(coco))
    assert len(build_curated_coco("val2017", root=str(coco))) == 2  # training needs no labels
    (coco / "val2017/000000000001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing .*000000000001\.jpg"):
        build_curated_coco("val2017", root=str(coco))
    with pytest.raises(DataError, match="cannot read the image list .*Copy PiCIE's curated lists"):
        build_curated_coco("train2017", root=str(coco))
    with pytest.raises(ConfigError, match="not 'test2017'"):
        build_coco_stuff("test2017", root=str(coco))
    listed = coco / "list.txt"
    listed.write_text("000000000001\n\n139.jpg\n")
    with pytest.raises(DataError, match=r"list.txt, line 3: '139.jpg' is no COCO id"):
        read_ids(str(listed))


def test_cityscapes_records_and_labels(tmp_path):
    for folder in ("leftImg8bit/val/ulm", "gtFine/val/ulm"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(noise(8, 16, 3)).save(tmp_path / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png")
    ids = np.arange(40, dtype=np.uint8)[None].repeat(2, 0)
    Image.fromarray(ids).save(tmp_path / "gtFine/val/ulm/ulm_1_gtFine_labelIds.png")
    (record,) = build_cityscapes(("val",), root=str(tmp_path))
    labels = decode_labels(record["sem_seg_file_name"], map_labels=cityscapes_27_labels)
    assert labels[0].tolist() == [255] * 7 + list(range(27)) + [255] * 6
    assert len(CITYSCAPES_CLASSES) == 27
    with pytest.raises(DataError, match="Cityscapes train in .* 0 images"):
        build_cityscapes(("train",), root=str(tmp_path))


def test_label_images(tmp_path):
    labels = noise(6, 8, top=182)
    gray = Image.fromarray(labels)
    gray.save(tmp_path / "gray.png")
    palette = gray.convert("P")
    palette.putdata(labels.flatten().tolist())
    palette.putpalette(noise(768).tolist())
    palette.save(tmp_path / "palette.png")
    for name in ("gray", "palette"):
        assert np.array_equal(decode_labels(str(tmp_path / f"{name}.png"), (6, 8)), labels)
    Image.fromarray(noise(6, 8, 3)).save(tmp_path / "colour.png")
    Image.fromarray(noise(6, 8).astype(np.uint16)).save(tmp_path / "wide.png")
    for name in ("colour", "wide"):
        with pytest.raises(DataError, match=rf"{name}\.png: mode .* 8 bits per pixel"):
            decode_labels(str(tmp_path / f"{name}.png"))
    with pytest.raises(DataError, match=r"gray\.png are \(6, 8\), the image is \(8, 6\)"):
        decode_labels(str(tmp_path / "gray.png"), (8, 6))
    with pytest.raises(DataError, match=r"cannot read labels .*none\.png"):
        decode_labels(str(tmp_path / "none.png"))
    Image.fromarray(labels + 60).save(tmp_path / "other.png")
    with pytest.raises(DataError, match=r"other\.png: label values \[18"):
        decode_labels(str(tmp_path / "other.png"), map_labels=map_labels)
    (tmp_path / "damaged.png").write_bytes((tmp_path / "gray.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"cannot read labels .*damaged\.png"):
        decode_labels(str(tmp_path / "damaged.png"))


def test_labelled_square_equals_the_recorded_one(tmp_path):
    arrays = golden("eval_crop_s0")
    Image.fromarray(arrays["in/image"]).save(tmp_path / "image.png")
    Image.fromarray(arrays["in/label"]).save(tmp_path / "label.png")
    record = {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "label.png")}
    mapper = LabelledSquareMapper(size=int(arrays["hp/res"]), map_labels=map_labels)
    sample = mapper({**record, "image_id": 5})
    known = torch.from_numpy(arrays["out/image_u8"]).permute(2, 0, 1)
    assert (sample["image"].int() - known.int()).abs().max() <= 1
    assert torch.equal(
        torch.where(sample["sem_seg"] == 255, -1, sample["sem_seg"]), torch.from_numpy(arrays["out/label"])
    )
    assert sample["image_id"] == 5


def test_views_are_a_function_of_seed_epoch_and_image(coco):
    mapper = ClusterViewMapper(size=40, photometric=FixedOrderPhotometric())

    def batches(seed=0):
        loader = build_train_loader(
            build_image_source(str(coco / "val2017")),
            mapper,
            3,
            seed=seed,
            num_workers=0,
            collate_fn=collate_cluster_views,
        )
        iterator = iter(loader)
        found = [next(iterator) for _ in range(2)]
        iterator.close()
        return loader, found

    loader, (first, second) = batches()
    assert first["image"].shape == (3, 3, 40, 40)  # images of 21 x 30 are enlarged
    assert first["image"].dtype == torch.uint8
    assert [view.shape for view in first["photometric"]] == [(3, 10), (3, 10)]
    assert not torch.equal(*first["photometric"])
    assert sorted(first["index"]) == [0, 1, 2]
    assert first["crop"].dtype == torch.float64
    assert ((first["crop"][:, 0] >= 0.5) & (first["crop"][:, :3] <= 1).all(1)).all()
    again = loader.collate_fn([loader.dataset[(0, index)] for index in first["index"]])
    for key in ("image", "crop"):
        assert torch.equal(again[key], first[key])
    assert torch.equal(again["photometric"][1], first["photometric"][1])
    assert not torch.equal(first["crop"].sort(0).values, second["crop"].sort(0).values)  # another epoch
    assert not torch.equal(batches(seed=1)[1][0]["crop"], first["crop"])
    plain = ClusterViewMapper(size=40)({**loader.dataset.records[0]}, rng=np.random.default_rng(0))
    assert plain["photometric"][0].tolist() == [1, 1, 1, 0, 0, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("kwargs", [{"size": 0}, {"crop_scale": (0.5, 1.5)}, {"crop_scale": (0.0, 1.0)}])
def test_mistakes_in_the_mapper(kwargs):
    with pytest.raises(ConfigError, match="size=.*crop_scale="):
        ClusterViewMapper(**kwargs)
    with pytest.raises(ConfigError, match="size=0"):
        LabelledSquareMapper(size=0)


def test_rule_of_the_curated_lists():
    arrays = golden("curation_s0")
    accepted = [is_curated(arrays[f"in/map{index}"]) for index in range(5)]
    assert accepted == arrays["out/accept"].tolist()
    assert not is_curated(np.full((400, 400), 255, np.uint8))
