#!/usr/bin/env python
"""Trains or evaluates what a LazyConfig file describes: pretraining, fine-tuning, `--eval-only`.

    tools/lazyconfig_train_net.py --config-file CONFIG --num-gpus 8 [--resume | --eval-only] [key=value ...]

Follows detectron2's tools/lazyconfig_train_net.py. Exit statuses: densessl/engine/launch.py.
"""

import argparse
import functools

from densessl.engine.launch import default_argument_parser, launch, quiet_known_warnings, run_main

quiet_known_warnings()  # here for the processes that the launcher starts: they import this file first


@functools.lru_cache(maxsize=1)
def load(config_file: str, overrides: tuple[str, ...]):
    """Loads and checks the config, once per process."""
    from densessl.config import load_config

    return load_config(config_file, overrides)


def main(args: argparse.Namespace) -> None:
    """Runs in every process of the job."""
    from densessl.engine.defaults import run

    run(load(args.config_file, tuple(args.opts)), args)


def start() -> None:
    """Checks the config before any process is started, then starts them."""
    args = default_argument_parser().parse_intermixed_args()
    cfg = load(args.config_file, tuple(args.opts))
    launch(main, args, cfg.train.device)


if __name__ == "__main__":
    run_main(start)
