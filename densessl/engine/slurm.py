"""Runs a training as a Slurm job through submitit, one task per GPU, requeued where it stopped.

Before the time limit, or a preemption that submitit announces, every task gets SIGUSR2: the step is
finished and saved on all ranks, then the job is put back into the queue with `--resume`. A job that Slurm
itself requeues (PreemptMode=REQUEUE, a node failure) continues as well. SIGTERM (scancel) saves and ends.
"""

import argparse
import os
import signal
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from densessl.engine.launch import default_argument_parser, launch, resolve_device
from densessl.engine.run_directory import check_writable, refuse_other_run
from densessl.engine.signals import TrainingInterrupted
from densessl.errors import ConfigError


class TrainJob:
    """What each task runs: one process of the training.

    Args:
        argv: arguments of the trainer (`tools/lazyconfig_train_net.py`).
    """

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv

    def __call__(self) -> None:
        from densessl.config import load_config

        args = default_argument_parser().parse_intermixed_args(self.argv)
        # set when Slurm has requeued the job by itself
        args.resume = args.resume or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        cfg = load_config(args.config_file, args.opts)
        try:
            launch(run_config, args, cfg.train.device)
        except TrainingInterrupted as stopped:
            if stopped.signum != signal.SIGUSR2:
                raise
            # submitit's own handler, back in place after training: it requeues the job and leaves on rank
            # 0, and returns on the others, whose normal end must not stop rank 0 from doing that
            signal.getsignal(signal.SIGUSR2)(stopped.signum, None)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues in place of the stopped job."""
        return DelayedSubmission(TrainJob([*self.argv, *([] if "--resume" in self.argv else ["--resume"])]))


def run_config(args: argparse.Namespace) -> None:
    """Loads the config and runs it, in each task."""
    from densessl.config import load_config
    from densessl.engine.defaults import run

    run(load_config(args.config_file, args.opts), args)


def submit(args: argparse.Namespace) -> submitit.Job:
    """Queues the training after checking its config here.

    Args:
        args: of `tools/submit_slurm.py`.

    Raises:
        ConfigError, CheckpointError: as the trainer would, before anything is queued.
    """
    from densessl.config import load_config
    from densessl.engine.checks import check_batch, check_values

    for name in ("nodes", "gpus_per_node", "cpus_per_gpu", "timeout"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1.")
    cfg = load_config(args.config_file, args.opts)
    check_values(cfg, args)
    check_batch(cfg, args.nodes * args.gpus_per_node)
    if args.cluster == "local":
        resolve_device(cfg.train.device)
    folder = args.folder or Path(cfg.train.output_dir) / "slurm" / "%j"
    limits = {f"{args.cluster}_max_num_timeout": args.max_requeues}
    refuse_other_run(cfg.train.output_dir, args.resume)
    check_writable(cfg.train.output_dir)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=args.cluster, **limits)
    except RuntimeError as error:  # no srun here
        raise ConfigError(
            f"{error} Run this on a machine that submits Slurm jobs, or start the training here with "
            "tools/lazyconfig_train_net.py."
        ) from error
    executor.update_parameters(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=args.gpus_per_node,
        gpus_per_node=0 if cfg.train.device == "cpu" else args.gpus_per_node,
        cpus_per_task=args.cpus_per_gpu,
        timeout_min=args.timeout,
        slurm_signal_delay_s=args.signal_delay,
        slurm_partition=args.partition,
        slurm_account=args.account,
        slurm_qos=args.qos,
        slurm_constraint=args.constraint,
        # one failed task ends the job at once instead of leaving the others in a collective
        slurm_srun_args=["--kill-on-bad-exit=1"],
    )
    argv = ["--config-file", str(Path(args.config_file).resolve()), *args.opts]
    return executor.submit(TrainJob([*argv, *(["--resume"] if args.resume else [])]))
