"""A bare pretrained trunk loads whole into every family of detectors: ResNet-50 and the twins' ResNet-18."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from densessl.checkpoint.transfer import load_initial_weights
from densessl.config import load_config
from densessl.errors import CheckpointError
from densessl.modeling.backbone import build_resnet

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2] / "configs"
FAMILIES = {
    "PascalVOC-Detection/faster_rcnn_R_50_C4_24k": "backbone.",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x": "backbone.",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_2fc": "backbone.bottom_up.",
    "COCO-Detection/retinanet_R_50_FPN_1x": "backbone.bottom_up.",
    "COCO-Detection/fcos_R_50_FPN_1x": "backbone.bottom_up.",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x": "backbone.bottom_up.",
}


@pytest.fixture(scope="module")
def trunks(tmp_path_factory):
    """{depth: (state dict, file)} of trunks with every tensor changed from its initial value."""
    folder, found = tmp_path_factory.mktemp("trunks"), {}
    for depth in (18, 50):
        state = build_resnet(depth).state_dict()
        generator = torch.Generator().manual_seed(depth)
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = value + torch.rand(value.shape, generator=generator)
        torch.save(state, folder / f"{depth}.pth")
        found[depth] = (state, str(folder / f"{depth}.pth"))
    return found


def detector(recipe, depth):
    path = f"{recipe}.py" if depth == 50 else f"quick_schedules/{recipe.split('/')[1]}_quick.py"
    return instantiate(load_config(str(ROOT / path)).model)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("recipe", FAMILIES)
def test_all_trunk_tensors_are_loaded(recipe, depth, trunks):
    state, path = trunks[depth]
    model = detector(recipe, depth)
    report = load_initial_weights(model, path)
    assert report.trunk_missing == report.trunk_unused == report.wrong_shape == report.unexpected == []
    own, prefix = model.state_dict(), FAMILIES[recipe]
    places = {}
    for name in state:
        last = "C4" in recipe and name.startswith("res5.")
        places[name] = f"roi_heads.{name}" if last else prefix + name
    assert sorted(report.loaded) == sorted(places.values())
    assert all(torch.equal(own[place], state[name]) for name, place in places.items())
    # what stays initial is the detector's own: the extra norm, pyramid and heads
    assert all(not re.search(r"(stem|res[2-5]\.\d)", name) for name in report.missing)
    if "C4" in recipe:
        assert "roi_heads.res5.norm.weight" in report.missing


def test_another_depth_is_refused(trunks):
    model = detector("COCO-Detection/fcos_R_50_FPN_1x", 18)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="same depth"):
        load_initial_weights(model, trunks[50][1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_retinanet_evaluates_weights_that_have_no_normaliser(trunks, tmp_path):
    """detectron2's RetinaNet files do not hold it, and no output depends on it."""
    model = detector("COCO-Detection/retinanet_R_50_FPN_1x", 18)
    state = model.state_dict()
    del state["loss_normalizer"]
    torch.save({"model": state}, tmp_path / "theirs.pth")
    report = load_initial_weights(model, str(tmp_path / "theirs.pth"), require_all=True)
    assert report.missing == ["loss_normalizer"]
    del state["head.cls_score.bias"]
    torch.save({"model": state}, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match="tensors of the model find no value"):
        load_initial_weights(model, str(tmp_path / "damaged.pth"), require_all=True)
