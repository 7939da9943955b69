"""Parameter groups and learning-rate schedules that a config can name."""

from densessl.solver.param_groups import get_param_groups
from densessl.solver.schedulers import EpochwiseParamScheduler

__all__ = ["EpochwiseParamScheduler", "get_param_groups"]
