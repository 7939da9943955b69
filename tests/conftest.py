"""How the suite runs: without a GPU, and as a whole in several processes."""

import logging
import os

import pytest

# All of it is about the CPU. Where torch sees a GPU, its first backward pass starts threads, and processes
# that are forked afterwards cannot train.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# As a run sets them. For caplog, pytest listens to the loggers that are so when a test begins: without this
# the first test of a process that trains something would see none of its messages.
for _name in ("fvcore", "detectron2", "densessl"):
    logging.getLogger(_name).propagate = False

MOST_PROCESSES = 4  # a test may start four of its own


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite takes the cores there are; what is named on the command line runs in this process."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    cores = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    return cores if cores > 1 else 0
