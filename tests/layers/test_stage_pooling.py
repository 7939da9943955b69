"""Five stages of a ResNet: published sizes, windows against loops, and maps against torchvision."""

import pytest
import torch
import torchvision

from densessl.checkpoint.recognise import recognise
from densessl.layers.stage_pooling import POOLED_SIDES, pool_stage, stage_maps
from densessl.modeling.backbone import build_resnet

# R-50, openselfsup/models/utils/multi_pooling.py: POOL_DIMS
# and, for maps of 112, 56, 28, 14 and 7 positions a side, POOL_PARAMS: kernel, stride, padding
WINDOWS = {
    "conv1": (112, 10, 10, 4),
    "res2": (56, 16, 8, 0),
    "res3": (28, 13, 5, 0),
    "res4": (14, 8, 3, 0),
    "res5": (7, 6, 1, 0),
}
DIMS = {"conv1": 9216, "res2": 9216, "res3": 8192, "res4": 9216, "res5": 8192}


def test_published_dimensions():
    with torch.device("meta"):
        maps = stage_maps(build_resnet(50), torch.empty(1, 3, 224, 224))
        for pooling in ("specified", "adaptive"):
            pooled = {name: pool_stage(x, name, pooling) for name, x in maps.items()}
            assert {name: x.flatten(1).shape[1] for name, x in pooled.items()} == DIMS
            assert {name: x.shape[-1] for name, x in pooled.items()} == POOLED_SIDES


@pytest.mark.parametrize("stage", WINDOWS)
def test_windows_against_loops(stage):
    side, kernel, stride, padding = WINDOWS[stage]
    x = torch.rand(1, 2, side, side, dtype=torch.float64)
    found = pool_stage(x, stage)
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            total = torch.zeros(2, dtype=torch.float64)
            for i in range(row * stride - padding, row * stride - padding + kernel):
                for j in range(column * stride - padding, column * stride - padding + kernel):
                    if 0 <= i < side and 0 <= j < side:
                        total += x[0, :, i, j]
            torch.testing.assert_close(found[0, :, row, column], total / kernel**2)  # zeros count


def test_maps_equal_torchvision():
    torch.manual_seed(0)
    reference = torchvision.models.resnet18().eval()
    ours = build_resnet(18).eval()
    weights = recognise(dict(reference.state_dict()), "torchvision")
    ours.load_state_dict({name: weights.tensors[weights.trunk[name]] for name in ours.state_dict()})
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = stage_maps(ours, image, ("res3", "conv1"))
        x = reference.relu(reference.bn1(reference.conv1(image)))
        torch.testing.assert_close(maps["conv1"], x)
        x = reference.layer2(reference.layer1(reference.maxpool(x)))
        torch.testing.assert_close(maps["res3"], x)
    assert list(maps) == ["res3", "conv1"]


def test_wrong_sizes_and_names():
    with pytest.raises(ValueError, match=r"need a map of 7 x 7.*got \(8, 8\)"):
        pool_stage(torch.zeros(1, 2, 8, 8), "res5")
    assert pool_stage(torch.zeros(1, 2, 8, 8), "res5", "adaptive").shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="pooling 'max' is unknown"):
        pool_stage(torch.zeros(1, 2, 7, 7), "res5", "max")
