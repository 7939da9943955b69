"""ResNet builder, timm backbone, initial weights of the heads."""

import pytest
import torch
import torchvision
from detectron2.modeling import Backbone
from torch import nn

from densessl.errors import ConfigError
from densessl.modeling.backbone import TimmBackbone, build_resnet
from densessl.modeling.heads import DenseProjectionHead, GlobalProjectionHead, SimSiamProjector

torch.set_num_threads(1)


def to_torchvision(name):
    name = name.replace("stem.conv1.norm.", "bn1.").replace("stem.conv1.", "conv1.")
    for stage in range(2, 6):
        name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    for index in (1, 2, 3):
        name = name.replace(f"conv{index}.norm.", f"bn{index}.")
    return name


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_computes_what_torchvision_does(depth):
    ours = build_resnet(depth, out_features=("res2", "res5")).eval()
    theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
    state = {to_torchvision(name): value for name, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("fc.") or name.endswith("num_batches_tracked") for name in missing)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = ours(x)
        expected = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        torch.testing.assert_close(maps["res2"], expected)
        expected = theirs.layer4(theirs.layer3(theirs.layer2(expected)))
        torch.testing.assert_close(maps["res5"], expected)
    shapes = ours.output_shape()
    assert (shapes["res5"].channels, shapes["res5"].stride) == (512 if depth == 18 else 2048, 32)


def test_resnet_initial_weights():
    torch.manual_seed(0)
    fan_out, fan_in = build_resnet(18, init="fan_out"), build_resnet(18, init="fan_in")
    weight = "res3.0.conv1"  # 64 -> 128 channels, 3 x 3
    assert abs(fan_out.get_submodule(weight).weight.std() / (2 / (128 * 9)) ** 0.5 - 1) < 0.02
    assert abs(fan_in.get_submodule(weight).weight.std() / (2 / (64 * 9)) ** 0.5 - 1) < 0.02


@pytest.mark.parametrize(("depth", "last"), [(18, "conv2"), (50, "conv3")])
def test_zero_init_residual(depth, last):
    model = build_resnet(depth, zero_init_residual=True)
    zero = [n for n, p in model.named_parameters() if p.dim() == 1 and "weight" in n and not p.any()]
    blocks = {18: 8, 50: 16}[depth]
    assert len(zero) == blocks
    assert all(f"{last}.norm" in name for name in zero)


def test_resnet_refuses_unknown_values():
    with pytest.raises(ConfigError, match="depth=20"):
        build_resnet(20)
    with pytest.raises(ConfigError, match="out_features"):
        build_resnet(18, out_features=("layer4",))
    with pytest.raises(ConfigError, match="init='xavier'"):
        build_resnet(18, init="xavier")
    with pytest.raises(ConfigError, match="norm='Batch'; use one of BN, SyncBN"):
        build_resnet(18, norm="Batch")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet18", {}), ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2})],
)
def test_timm_backbone(name, arguments):
    model = TimmBackbone(name, out_indices=(1, 3), model_args=arguments)
    assert isinstance(model, Backbone)
    maps = model(torch.zeros(1, 3, 64, 64))
    assert list(maps) == ["stage1", "stage3"]
    for key, shape in model.output_shape().items():
        assert maps[key].shape == (1, shape.channels, 64 // shape.stride, 64 // shape.stride)
    assert model.size_divisibility == max(shape.stride for shape in model.output_shape().values())


def test_timm_backbone_names_what_is_wrong():
    with pytest.raises(ConfigError, match="cannot build 'resnet_18'"):
        TimmBackbone("resnet_18")
    with pytest.raises(ConfigError, match="out_indices"):
        TimmBackbone("resnet18", out_indices=(9,))


def test_heads_start_at_the_published_scales():
    """Linear 0.03125 and convolution 0.01276 for 2048 inputs: the authors' two branches differ."""
    torch.manual_seed(0)
    head = GlobalProjectionHead(in_channels=2048)
    dense = DenseProjectionHead(in_channels=2048)
    assert abs(head.mlp[0].weight.std() - 0.03125) < 1e-4
    assert not head.mlp[0].bias.any()
    assert abs(dense.mlp[0].weight.std() - 0.01276) < 1e-4
    assert dense.mlp[0].bias.any()
    assert abs(GlobalProjectionHead(in_channels=2048, init="default").mlp[0].weight.std() - 0.01276) < 1e-4
    for module in (head, dense):
        assert sum(p.numel() for p in module.parameters()) == 4_458_624
    with pytest.raises(ConfigError, match="init='zeros'"):
        GlobalProjectionHead(in_channels=8, init="zeros")


def test_moco_v1_head_is_one_linear_layer():
    head = GlobalProjectionHead(in_channels=16, hidden_channels=None, out_channels=4)
    assert [type(layer) for layer in head.mlp] == [nn.Linear]
    assert head(torch.zeros(2, 16, 3, 3)).shape == (2, 4)


def test_simsiam_norm_by_name():
    synchronised = SimSiamProjector(in_channels=8, out_channels=4, norm="SyncBN")
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in synchronised.mlp) == 3
    with pytest.raises(ConfigError, match="norm='GN'"):
        SimSiamProjector(in_channels=8, out_channels=4, norm="GN")
