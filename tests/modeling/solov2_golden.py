"""Reads the golden numbers of SOLOv2; tests/data/golden/solov2/README.md describes the arrays."""

import re
from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import BitMasks, Boxes, Instances

from densessl.modeling.heads import SOLOv2InstanceHead, SOLOv2MaskHead
from densessl.modeling.meta_arch import SOLOv2

FOLDER = Path(__file__).resolve().parents[1] / "data" / "golden" / "solov2"


def load(name):
    """Returns the arrays of a file as tensors by name; text stays numpy."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {k: v if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in arrays.items()}


def unpack(packed, size):
    """(n, bytes) -> (n, height, width) bool."""
    height, width = map(int, size)
    bits = np.unpackbits(packed.numpy(), axis=1)[:, : height * width] if len(packed) else np.zeros((0, 0))
    return torch.from_numpy(bits.astype(bool).reshape(-1, height, width))


def image_instances(data, index):
    """Ground truth of image `index` as the mapper gives it."""
    height, width = data[f"{index}/size"].tolist()
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(data[f"{index}/boxes"].reshape(-1, 4))
    instances.gt_classes = data[f"{index}/labels"].long()
    if len(instances):  # the mapper leaves the field out when there are none
        instances.gt_masks = BitMasks(unpack(data[f"{index}/masks"], (height, width)))
    return instances


class FixedPyramid(Backbone):
    """Gives `features` whatever the images are."""

    size_divisibility = 32

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        return dict(self.features)

    def output_shape(self):
        shapes = {k: ShapeSpec(channels=v.shape[1], stride=2 ** int(k[1])) for k, v in self.features.items()}
        return shapes or {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in range(2, 7)}


def build(features, grids, classes, kernel_channels=32, channels=32, num_convs=2, **options):
    """A small SOLOv2 on given maps, with the level ranges of the small golden files."""
    in_channels = next(iter(features.values())).shape[1] if features else 32
    options = {"scale_ranges": ((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)), **options}
    return SOLOv2(
        backbone=FixedPyramid(features),
        instance_head=SOLOv2InstanceHead(
            in_channels=in_channels,
            num_classes=classes,
            num_grids=grids,
            num_convs=num_convs,
            channels=channels,
            kernel_channels=kernel_channels,
        ),
        mask_head=SOLOv2MaskHead(in_channels=in_channels, channels=channels, out_channels=kernel_channels),
        num_classes=classes,
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[4.0, 5.0, 6.0],
        **options,
    )


def own_name(name):
    """Name of a parameter here for its name in AdelaiDet's state dict."""
    name = name.replace("ins_head.", "instance_head.").replace("cate_", "category_")
    # towers there: convolution, norm and ReLU in turn; here one module with all three
    match = re.fullmatch(r"(instance_head\.\w+_tower)\.(\d+)\.(\w+)", name)
    if match:
        index, norm = divmod(int(match[2]), 3)
        return f"{match[1]}.{index}.{'norm.' if norm else ''}{match[3]}"
    match = re.fullmatch(r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.(\d)\.(\w+)", name)
    if match:
        index = 2 * int(match[2]) if match[1] != "0" else 0  # an upsampling stands between
        return f"mask_head.levels.{match[1]}.{index}.{'norm.' if match[3] == '1' else ''}{match[4]}"
    match = re.fullmatch(r"mask_head\.conv_pred\.(\d)\.(\w+)", name)
    if match:
        return f"mask_head.pred.{'norm.' if match[1] == '1' else ''}{match[2]}"
    return name
