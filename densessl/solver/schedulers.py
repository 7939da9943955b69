"""Schedules of training progress that fvcore lacks."""

from fvcore.common.param_scheduler import ParamScheduler


class EpochwiseParamScheduler(ParamScheduler):
    """Holds another schedule constant within each epoch, at the value of the epoch's start.

    DenseCL, MoCo and SimSiam change their learning rate once per epoch: with a cosine,
    lr_e = lr / 2 (1 + cos(pi e / epochs)) for e = 0 .. epochs - 1, so 0 itself is never used.

    Args:
        scheduler: the schedule, a function of progress in [0, 1).
        epochs: how many equal parts training has.
    """

    def __init__(self, scheduler: ParamScheduler, epochs: int):
        self.scheduler = scheduler
        self.epochs = epochs

    def __call__(self, where: float) -> float:
        # `where` is iteration / max_iter in floating point; at an epoch's first step where * epochs can
        # fall an ulp short of the whole number
        epoch = int(where * self.epochs + 1e-9)
        return self.scheduler(min(epoch, self.epochs - 1) / self.epochs)
