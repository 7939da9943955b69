"""A PiCIE with one convolution, its data and a stand-in for the trainer. Not a test itself."""

import contextlib
from types import SimpleNamespace

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from densessl.data.build import build_train_loader
from densessl.data.dataset_mappers import collate_cluster_views
from densessl.engine.cluster_hook import ClusterHook
from densessl.engine.events import TensorEventStorage
from densessl.layers.photometric import NONE, NUM_PARAMS, ORDER
from densessl.modeling.meta_arch import PiCIE


class OneConvolution(Backbone):
    """4 x 4 with stride 4, as in the recorded epoch; and batch norm on request."""

    def __init__(self, channels: int, norm: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, images):
        return {"p2": self.norm(self.conv(images))}

    def output_shape(self):
        return {"p2": ShapeSpec(channels=self.conv.out_channels, stride=4)}


class ToyMapper:
    """A random square and crop; colours are left alone."""

    needs_rng = True

    def __init__(self, size: int):
        self.size = size

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        params = torch.zeros(NUM_PARAMS)
        params[:3], params[ORDER] = 1.0, NONE
        crop = [rng.uniform(0.5, 1), rng.random(), rng.random(), float(rng.random() < 0.5)]
        return {
            "image": torch.from_numpy(rng.integers(0, 256, (3, self.size, self.size), dtype=np.uint8)),
            "photometric": [params, params],
            "crop": torch.tensor(crop, dtype=torch.float64),
            **record,
        }


def make_model(channels: int = 8, clusters: int = 5, resolution: int = 24, **kwargs) -> PiCIE:
    torch.manual_seed(0)
    statistics = {"pixel_mean": [127.5] * 3, "pixel_std": [60.0] * 3}
    backbone = OneConvolution(channels)
    return PiCIE(backbone=backbone, num_clusters=clusters, resolution=resolution, **statistics, **kwargs)


def make_hook(model: PiCIE, output_dir, images: int = 8, batch: int = 4, **kwargs) -> ClusterHook:
    """The hook, with a trainer at the start of its first epoch."""
    records = [{"file_name": f"{index}.jpg", "image_id": index} for index in range(images)]
    hook = ClusterHook(num_workers=0, **kwargs)
    hook.trainer = SimpleNamespace(
        module=model,
        data_loader=build_train_loader(
            records,
            ToyMapper(2 * model.resolution),
            batch,
            seed=0,
            num_workers=0,
            collate_fn=collate_cluster_views,
        ),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        output_dir=str(output_dir),
        storage=TensorEventStorage(),
        start_iter=0,
        iter=0,
        _autocast=contextlib.nullcontext,
    )
    return hook
