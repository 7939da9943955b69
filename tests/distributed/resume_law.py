"""What the resume law trains: the real recipes on a narrow trunk. Run as a program, in two processes.

python resume_law.py OUTPUT PICTURES stop      trains each method whole, and stops it in another directory
python resume_law.py OUTPUT PICTURES resume    resumes the stopped ones, in fresh processes
"""

import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.engine.train_loop import HookBase
from narrow import make_narrow

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.launch import default_argument_parser, launch, run_main
from densessl.engine.signals import TrainingInterrupted

ROOT = Path(__file__).parents[2]
RECIPES = {
    "densecl": "densecl_R_50_coco_800ep_quick",
    "moco": "moco_v2_R_50_coco_800ep_quick",
    "simsiam": "simsiam_R_50_coco_800ep_quick",
}
STEPS, STOP = 6, 3


class StopAfter(HookBase):
    """Sends this process SIGTERM during a given iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def load(method: str, output: Path, pictures: Path, *extra: str):
    """Config of a method's quick recipe on the narrow trunk."""
    options = [
        f"train.output_dir={output}",
        f"dataloader.train.dataset.source={pictures}",
        f"train.max_iter={STEPS}",
        "train.checkpointer.period=100",  # only where it stops
        "train.log_period=2",
    ]
    cfg = load_config(str(ROOT / "configs/quick_schedules" / f"{RECIPES[method]}.py"), [*options, *extra])
    make_narrow(cfg.model)  # the law is about state, not its size; a queue of 32 wraps round within the run
    return cfg


def train(method: str, output: Path, pictures: Path, *extra: str, stop_after: int | None = None) -> None:
    """Goes on from what is in `output` to the end, or is told to stop during iteration `stop_after`."""
    cfg = load(method, output, pictures, *extra)
    if stop_after is None:
        defaults.run(cfg, Namespace(resume=True, eval_only=False))
        return
    cfg.train.hooks.append({"_target_": StopAfter, "iteration": stop_after})
    with pytest.raises(TrainingInterrupted):
        defaults.run(cfg, Namespace(resume=True, eval_only=False))


def train_all(args: Namespace) -> None:
    """What each of two processes does."""
    output, pictures, part = args.opts
    one_worker = "dataloader.train.num_workers=1"
    torch.set_num_threads(1)
    for method in RECIPES:
        whole, stopped = Path(output, f"{method}_whole"), Path(output, f"{method}_stopped")
        if part == "stop":
            train(method, whole, pictures, one_worker)
            # the ranks agree during the next step
            train(method, stopped, pictures, one_worker, stop_after=STOP - 1)
        else:
            train(method, stopped, pictures, one_worker)


if __name__ == "__main__":
    # `__main__` is not importable by that name in the processes that are started
    import resume_law

    arguments = default_argument_parser().parse_args(["--config-file", "-", "--num-gpus", "2", *sys.argv[1:]])
    run_main(lambda: launch(resume_law.train_all, arguments, "cpu"))
