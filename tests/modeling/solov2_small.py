"""A SOLOv2 and pictures that train in seconds on one core."""

import torch
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.structures import BitMasks, Instances

from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import SOLOv2InstanceHead, SOLOv2MaskHead
from densessl.modeling.meta_arch import SOLOv2

SIZE = 96
COLOURS = torch.tensor([[230.0, 60.0, 40.0], [40.0, 90.0, 220.0]])  # of discs and of bars
# centre x, centre y, radius, class
SCENES = (
    ((24, 24, 14, 0), (68, 30, 18, 1), (40, 70, 20, 0)),
    ((70, 70, 16, 1), (25, 60, 20, 1), (65, 22, 15, 0)),
)


def small_solov2(norm="GN", seed=0, **options):
    """ResNet-18, 32 channels; with GN everywhere images do not see each other."""
    torch.manual_seed(seed)
    stages = ["res2", "res3", "res4", "res5"]
    return SOLOv2(
        backbone=FPN(
            bottom_up=build_resnet(18, norm=norm, out_features=stages),
            in_features=stages,
            out_channels=32,
            norm=norm,
            top_block=LastLevelMaxPool(),
        ),
        instance_head=SOLOv2InstanceHead(
            in_channels=32,
            num_classes=2,
            num_grids=(12, 10, 8, 6, 4),
            num_convs=2,
            channels=64,
            kernel_channels=32,
        ),
        mask_head=SOLOv2MaskHead(in_channels=32, channels=32, out_channels=32),
        num_classes=2,
        pixel_mean=[128.0] * 3,
        pixel_std=[64.0] * 3,
        **{"scale_ranges": ((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)), **options},
    )


def scene(shapes, seed=0):
    """A picture of `shapes` and its ground truth, as the mapper gives it."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    image = 100 + 30 * torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    masks = []
    for centre_x, centre_y, radius, label in shapes:
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
        bar = ((x - centre_x).abs() < radius) & ((y - centre_y).abs() < 0.7 * radius)
        masks.append(bar if label else disc)
        image[:, masks[-1]] = COLOURS[label][:, None]
    instances = Instances((SIZE, SIZE))
    if masks:  # an image without objects has no gt_masks
        instances.gt_masks = BitMasks(torch.stack(masks))
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    else:
        instances.gt_boxes = BitMasks(torch.zeros(0, SIZE, SIZE)).get_bounding_boxes()
    instances.gt_classes = torch.tensor([shape[3] for shape in shapes], dtype=torch.long)
    return {"image": image.to(torch.uint8), "instances": instances, "height": SIZE, "width": SIZE}


def scenes():
    return [scene(shapes, seed) for seed, shapes in enumerate(SCENES)]
