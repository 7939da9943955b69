"""Diagnostics order random < early < late weights of one trunk, and tell runs that collapse.

A ResNet-18 up to res3 (stride 8), 32-pixel crops, batch 16, on small pictures of textures.
"""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler
from textures import build

from densessl.config import load_config
from densessl.diagnostics.hook import DiagnosticsHook
from densessl.engine import defaults
from densessl.modeling.meta_arch import SimSiam
from densessl.visualization.curves import Series, read_metrics
from densessl.visualization.health import Facts, judge

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
QUICK = Path(__file__).parents[2] / "configs" / "quick_schedules"
METHODS = {"densecl": (0.05, ["model.queue_size=128", "model.momentum=0.98"]), "simsiam": (0.05, [])}


class WithoutStopGradient(SimSiam):
    """Both sides of each pair get a gradient."""

    def forward(self, batch):
        views = [self.normalize(view) for view in self.collect_views(batch)]
        features = [self.backbone(view)[self.in_feature] for view in views]
        projections = [self.projection_head(feature) for feature in features]
        first, second = (self.prediction_head(projection) for projection in projections)
        self._log_health(features[0].mean((2, 3)), projections)
        cosines = [F.cosine_similarity(first, projections[1]), F.cosine_similarity(second, projections[0])]
        return {"loss_cosine": -0.5 * (cosines[0] + cosines[1]).mean()}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("textures")
    return (
        build(folder, "diagnostics_textures_train", 256, seed=0, held_out=False),
        build(folder, "diagnostics_textures_val", 40, seed=1, held_out=True),
    )


def train(output: Path, datasets, method: str, steps: int, hook: dict, lr_factor=1.0, model=None) -> dict:
    """Trains and returns the metrics."""
    lr, options = METHODS[method]
    cfg = load_config(
        str(QUICK / f"{method}_R_50_coco_800ep_quick.py"),
        [
            f"dataloader.train.dataset.source={datasets[0]}",
            "dataloader.train.mapper.crop_size=32",
            "dataloader.train.mapper.photometric.brightness=0.4",
            "dataloader.train.total_batch_size=16",
            "model.backbone.out_features=[res3]",
            "model.in_feature=res3",
            "model.projection_head.in_channels=128",
            f"optimizer.lr={lr * lr_factor}",
            f"train.max_iter={steps}",
            "train.checkpointer.period=1000",
            f"train.output_dir={output}",
            *options,
        ],
    )
    cfg.lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
    if model is not None:
        cfg.model._target_ = model
    cfg.train.hooks = [L(DiagnosticsHook)(dataset=datasets[1], num_images=40, image_size=64, **hook)]
    defaults.run(cfg, Namespace(resume=False, eval_only=False))
    return read_metrics(output / "metrics.json")


def problems(metrics: dict[str, Series]) -> list[str]:
    return [verdict.text for verdict in judge(metrics, Facts()) if verdict.level == "bad"]


def test_random_early_late(datasets, tmp_path):
    hook = {"diagnostics": ["spectrum", "retrieval", "linear"], "period": 15}
    metrics = train(tmp_path, datasets, "densecl", 150, {**hook, "memory_dataset": datasets[0]})
    for name in ("retrieval_miou", "linear_miou", "image_rank", "cell_rank"):
        values = metrics[f"diagnostics/{name}"].values
        print(name, values.round(2).tolist())
    assert not problems(metrics)


@pytest.mark.parametrize("kind", ["sound", "no stopped gradient", "learning rate x100"])
def test_collapse_is_flagged_within_200_steps(kind, datasets, tmp_path, caplog):
    options = {
        "sound": {},
        "no stopped gradient": {"model": WithoutStopGradient},
        "learning rate x100": {"lr_factor": 100.0},
    }[kind]
    hook = {"diagnostics": ["spectrum"], "period": 50}
    metrics = train(tmp_path, datasets, "simsiam", 100, hook, **options)
    found = problems(metrics)
    expected = {
        "sound": None,
        "no stopped gradient": "one direction",
        "learning rate x100": "loses directions",
    }
    assert [expected[kind] in text for text in found] == ([] if kind == "sound" else [True])
    warned = [r.getMessage() for r in caplog.records if r.name == "densessl.diagnostics.hook"]
    print(kind, found, warned, {k: v.values[-1] for k, v in metrics.items() if "rank" in k or "std" in k})
