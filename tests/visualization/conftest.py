"""Small run directories as the trainer writes them: config, metrics, checkpoint, predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image

from densessl.checkpoint.files import write_pointer, write_with_sidecar
from densessl.modeling.backbone import build_resnet
from densessl.visualization import matching, pictures

torch.set_num_threads(1)
TEST_SET = "visualization_test_set"
QUEUE = 64


@pytest.fixture(scope="session", autouse=True)
def small_pictures():
    """Fewer and smaller views: what is tested does not depend on their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "VIEW_SIZE", 96)
        patch.setattr(matching, "PAIRS_PER_IMAGE", 2)
        patch.setattr(pictures, "LONG_SIDE", 128)
        yield


def _photograph(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((160, 120), Image.BICUBIC))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of two images."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(2):
        Image.fromarray(_photograph(index)).save(folder / f"photo{index}.png")
    return folder


@pytest.fixture(scope="session")
def records(photographs) -> list[dict]:
    """Dataset dicts of the two images with one square each; registered under TEST_SET."""
    square = [[20.0, 20.0, 80.0, 20.0, 80.0, 80.0, 20.0, 80.0]]
    annotation = dict(
        bbox=[20, 20, 60, 60], bbox_mode=BoxMode.XYWH_ABS, category_id=1, segmentation=square, iscrowd=0
    )
    found = [
        dict(file_name=str(file), image_id=index, height=120, width=160, annotations=[annotation])
        for index, file in enumerate(sorted(photographs.iterdir()))
    ]
    if TEST_SET not in DatasetCatalog:
        DatasetCatalog.register(TEST_SET, lambda: found)
        MetadataCatalog.get(TEST_SET).set(
            thing_classes=["plate", "<massive>"], thing_dataset_id_to_contiguous_id={3: 0, 7: 1}
        )
    return found


def _write_metrics(folder: Path, rows: list[dict]) -> None:
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _save_config(folder: Path, **nouns) -> None:
    config = OmegaConf.create(nouns, flags={"allow_objects": True})
    LazyConfig.save(config, str(folder / "config.yaml"))


@pytest.fixture(scope="session")
def pretrain_dir(tmp_path_factory) -> Path:
    """A DenseCL run of 100 steps: metrics every 10, one checkpoint with the backbone's tensors."""
    folder = tmp_path_factory.mktemp("pretrain")
    backbone = L(build_resnet)(depth=18, out_features=["res5"])
    _save_config(
        folder,
        model=dict(_target_="densessl.modeling.meta_arch.DenseCL", backbone=backbone, queue_size=QUEUE)
        | dict(in_feature="res5", momentum=0.9, pixel_mean=[120.0] * 3, pixel_std=[60.0] * 3),
        dataloader=dict(train=dict(dataset=dict(source="photographs"), total_batch_size=8)),
        optimizer=dict(_target_="torch.optim.SGD", lr=0.03),
        train=dict(max_iter=100, seed=3, device="cpu", output_dir=str(folder), init_checkpoint=""),
    )
    rows = []
    for step in range(9, 100, 10):
        loss = math.log(QUEUE + 1) * (1.05 - step / 200)
        rows.append({"iteration": step, "total_loss": loss, "loss_global": loss / 2, "loss_dense": loss / 2})
        rows[-1] |= {"densecl/loss_global_unweighted": loss, "densecl/positive_cosine": 0.9, "lr": 0.03}
        rows[-1] |= {"densecl/negative_cosine": 0.1, "densecl/match_distinct": 0.6}
        rows[-1] |= {"densecl/queue_filled": min(64, 8 * (step + 1)), "elapsed_seconds": 1.5 * step}
        rows[-1] |= {"images_per_second": 33.25, "peak_memory_mb": 512.0, "data_wait": 0.25, "time": 0.24}
        rows[-1] |= {"other/unheard_of": 7.0 + step}
    for row, miou in ((rows[0], 11.5), (rows[-1], 23.75)):
        row |= {"diagnostics/retrieval_miou": miou, "diagnostics/novel": 2 * miou}
    _write_metrics(folder, rows)
    torch.manual_seed(5)
    model = {f"backbone.{k}": v for k, v in build_resnet(18, out_features=["res5"]).state_dict().items()}
    state = {"model": model, "data": {"num_images": 40}, "meta": {"world_size": 1}}
    write_with_sidecar(str(folder / "model_0000100.pth"), lambda file: torch.save(state, file), 100)
    write_pointer(str(folder), "model_0000100.pth")
    return folder


@pytest.fixture(scope="session")
def finetune_dirs(tmp_path_factory, records) -> dict[str, Path]:
    """Two evaluated runs with predictions, the second one weaker, and one that has only a config."""
    folders = {}
    for name, ap, start in (
        ("DenseCL start", 31.5, "model.pth"),
        ("random start", 12.25, ""),
        ("new", None, ""),
    ):
        folder = folders[name] = tmp_path_factory.mktemp("finetune")
        data = L(get_detection_dataset_dicts)(names=TEST_SET)
        _save_config(
            folder,
            model=dict(_target_="detectron2.modeling.GeneralizedRCNN"),
            dataloader=dict(train=dict(dataset=data, total_batch_size=2), test=dict(dataset=data)),
            optimizer=dict(_target_="torch.optim.AdamW", lr=0.0003),
            train=dict(max_iter=20, seed=3, device="cpu", init_checkpoint=start),
        )
        if ap is None:
            continue
        rows = [{"iteration": step, "total_loss": 2.0 - step / 20, "loss_mask": 0.5} for step in (9, 19)]
        rows[-1] |= {"bbox/AP": ap, "bbox/AP50": 2 * ap, "bbox/AP75": ap / 2, "bbox/AP-plate": float("nan")}
        rows[-1] |= {"segm/AP": ap - 1, "segm/AP50": 2 * ap - 1, "segm/AP75": ap / 3, "segm/AP-plate": ap}
        _write_metrics(folder, rows)
        mask = np.zeros((120, 160), np.uint8, order="F")
        mask[30:90, 30:90] = 1
        rle = mask_util.encode(mask)
        rle["counts"] = rle["counts"].decode()
        entry = dict(image_id=0, category_id=7, bbox=[30, 30, 60, 60], segmentation=rle, score=0.75)
        (folder / "inference").mkdir()
        (folder / "inference/coco_instances_results.json").write_text(
            json.dumps([entry, {**entry, "score": 0.2}, {**entry, "image_id": 1, "score": 0.3}])
        )
    return folders
