#!/usr/bin/env python
"""Queues a training on a Slurm cluster; the job continues by itself after time limits and preemption.

    tools/submit_slurm.py --config-file CONFIG --nodes 2 --gpus-per-node 8 --timeout 1440 \
        --partition gpu [--resume] [key=value ...]

Needs submitit (`pip install 'densessl[slurm]'`). All nodes must see train.output_dir.
"""

import argparse

from densessl.engine.launch import run_main
from densessl.errors import ConfigError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Queues a training on Slurm.", allow_abbrev=False)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue the run in train.output_dir")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=8, help="also the processes per node")
    parser.add_argument("--cpus-per-gpu", type=int, default=10, help="loader workers + 1 or more")
    parser.add_argument("--timeout", type=int, default=1440, help="minutes until the job is requeued")
    parser.add_argument("--signal-delay", type=int, default=300, help="seconds to finish a step and save")
    parser.add_argument("--max-requeues", type=int, default=100, help="after time limits")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--qos")
    parser.add_argument("--constraint")
    parser.add_argument("--name", default="densessl")
    parser.add_argument("--folder", help="logs of the jobs (default: train.output_dir/slurm/<job>)")
    parser.add_argument("--cluster", default="slurm", choices=("slurm", "local"), help="local: this machine")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="config overrides")
    args = parser.parse_intermixed_args()
    args.eval_only = False
    return args


def main() -> None:
    args = parse()
    try:
        from densessl.engine.slurm import submit
    except ImportError as error:
        raise ConfigError(f"{error}: `pip install 'densessl[slurm]'`.") from error
    job = submit(args)
    print(f"job {job.job_id}, log {job.paths.stdout}")


if __name__ == "__main__":
    run_main(main)
