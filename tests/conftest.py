"""How the suite runs: without a GPU, and as a whole in several processes."""

import os

import pytest

# All of it is about the CPU. Where torch sees a GPU, its first backward pass starts threads, and processes
# that are forked afterwards cannot train.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

MOST_PROCESSES = 4  # a test may start four of its own


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite takes the cores there are; what is named on the command line runs in this process."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    cores = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    return cores if cores > 1 else 0
