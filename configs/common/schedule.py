"""Learning-rate multipliers from epochs, images and batch size. Each returns (lr_multiplier, max_iter)."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
)

from densessl.solver import EpochwiseParamScheduler


def cosine(epochs, images, batch, per_epoch=True):
    """Cosine from 1 to 0 over whole epochs of `images // batch` steps (an incomplete last batch is dropped).

    `per_epoch`: the factor changes once per epoch, 0.5 (1 + cos(pi e / epochs)), as MoCo, DenseCL and
    SimSiam train (mmcv/runner/hooks/lr_updater.py:235-247; moco/main_moco.py adjust_learning_rate).
    """
    multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
    if per_epoch:
        multiplier = L(EpochwiseParamScheduler)(scheduler=multiplier, epochs=epochs)
    return multiplier, epochs * (images // batch)


def constant(epochs, images, batch):
    """The same rate throughout."""
    return L(ConstantParamScheduler)(value=1.0), epochs * (images // batch)


def step(epochs, milestones, images, batch, factor=0.1):
    """`factor` of the rate after each of `milestones` (epochs)."""
    multiplier = L(MultiStepParamScheduler)(
        values=[factor**k for k in range(len(milestones) + 1)], milestones=[*milestones, epochs]
    )
    return multiplier, epochs * (images // batch)


def multistep(max_iter, milestones, warmup_iters=1000, warmup_factor=0.001):
    """Detectron2's schedule: linear warm-up, then a tenth after each of `milestones` (iterations)."""
    multiplier = L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(milestones) + 1)], milestones=[*milestones, max_iter]
        ),
        warmup_length=warmup_iters / max_iter,
        warmup_method="linear",
        warmup_factor=warmup_factor,
    )
    return multiplier, max_iter
