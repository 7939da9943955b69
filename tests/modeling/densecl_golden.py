"""Reads the golden numbers of the DenseCL family and builds the models they were made with.

The arrays come from the released reference modules (WXinlong/DenseCL, facebookresearch/simsiam) run on tiny
backbones; tests/data/golden/densecl/README.md describes them.
"""

from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from densessl.modeling.heads import DenseProjectionHead, GlobalProjectionHead
from densessl.modeling.meta_arch import DenseCL, MoCo

FOLDER = Path(__file__).resolve().parents[1] / "data" / "golden" / "densecl"
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


def load(name):
    """Returns the arrays of a file as tensors by name, 0-d ones of hp/ as Python numbers."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        data = {key: torch.from_numpy(arrays[key].copy()) for key in arrays.files}
    return {
        key: value.item() if key.startswith("hp/") and not value.dim() else value
        for key, value in data.items()
    }


class IdentityBackbone(Backbone):
    """Returns its input as the map."""

    def __init__(self, channels):
        super().__init__()
        self._channels = channels

    def forward(self, x):
        return {"map": x}

    def output_shape(self):
        return {"map": ShapeSpec(channels=self._channels, stride=1)}


class ConvBackbone(Backbone):
    """3x3 convolution of stride 2 and batch norm, as in the trajectory and two-process files."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return {"map": self.bn(self.conv(x))}

    def output_shape(self):
        return {"map": ShapeSpec(channels=self.conv.out_channels, stride=2)}


def head_sizes(data, prefix):
    weight = data[f"{prefix}mlp.0.weight"]
    return {
        "in_channels": weight.shape[1],
        "hidden_channels": weight.shape[0],
        "out_channels": data[f"{prefix}mlp.2.weight"].shape[0],
    }


def build(data, backbone, prefix, dense, image_channels):
    """Builds MoCo or DenseCL with the hyper-parameters of a file; `prefix` names its query neck."""
    sizes = head_sizes(data, prefix)
    arguments = {
        "backbone": backbone,
        "projection_head": GlobalProjectionHead(**sizes),
        "in_feature": "map",
        "queue_size": data["hp/queue_len"],
        "momentum": data["hp/momentum"],
        "temperature": data["hp/temperature"],
        "pixel_mean": [0.0] * image_channels,
        "pixel_std": [1.0] * image_channels,
    }
    if not dense:
        return MoCo(**arguments)
    return DenseCL(
        **arguments,
        dense_projection_head=DenseProjectionHead(**sizes),
        loss_weight=data["hp/loss_lambda"],
    )


_RENAMED = (
    ("neck_q.mlp2.", "dense_projection_head.mlp."),
    ("neck_q.mlp.", "projection_head.mlp."),
    ("neck_k.mlp2.", "momentum_dense_projection_head.mlp."),
    ("neck_k.mlp.", "momentum_projection_head.mlp."),
    ("encoder_q.0.", "backbone."),
    ("encoder_q.1.mlp2.", "dense_projection_head.mlp."),
    ("encoder_q.1.mlp.", "projection_head.mlp."),
    ("encoder_k.0.", "momentum_backbone."),
    ("encoder_k.1.mlp2.", "momentum_dense_projection_head.mlp."),
    ("encoder_k.1.mlp.", "momentum_projection_head.mlp."),
    ("queue2", "dense_queue"),
    ("queue", "queue"),
)


def state(data, prefix):
    """Returns the entries under `prefix` by the names and layout of this project's state dict."""
    renamed = {}
    for key, value in data.items():
        if not key.startswith(prefix):
            continue
        name = key[len(prefix) :]
        for old, new in _RENAMED:
            if name.startswith(old):
                full = new + name[len(old) :]
                renamed[full] = value.t() if full.endswith("queue") else value
                break
    return renamed


def load_state(model, values):
    """Loads `values`; every other entry of the model must be one that the reference has no word for."""
    result = model.load_state_dict(values, strict=False)
    assert not result.unexpected_keys
    assert all("filled" in key or "_extra_state" in key for key in result.missing_keys), result.missing_keys


def assert_state(model, expected):
    actual = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )
