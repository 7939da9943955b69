#!/usr/bin/env python
"""Fine-tunes from checkpoints on several downstream tasks with several seeds, and collects a table.

    tools/benchmark_transfer.py output/densecl/model_final.pth --suite voc,coco_1x --seeds 3 --num-gpus 8
    tools/benchmark_transfer.py densecl=A.pth moco=B.pth random --suite coral --seeds 3

A checkpoint is anything that train.init_checkpoint takes: NAME=PATH or PATH; the word `random` is random
initialisation. Configs, data sets and weights are checked before the first run. Run the same command again
after an interruption: finished runs are recognised, the others resume. Tasks: configs/benchmarks/transfer.py.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

from densessl.benchmark.command import add_common_options, check_common_options, execute, progress
from densessl.engine.launch import quiet_known_warnings, run_main
from densessl.errors import ConfigError

RANDOM = "random"


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument("--suite", required=True, metavar="TASK,...", help="tasks, separated by commas")
    result.add_argument("--output", default="output/transfer", metavar="DIR", help="default: output/transfer")
    result.add_argument(
        "--baseline", metavar="NAME", help="row that the others are compared with (default: random, if given)"
    )
    add_common_options(result)
    return result


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Checkpoints as {name: path}, and overrides: those begin with a noun of a config.

    Raises:
        ConfigError: no checkpoint, or a name twice.
    """
    from densessl.benchmark.cells import is_name
    from densessl.config import NOUNS

    starts: dict[str, str] = {}
    overrides = []
    for text in arguments:
        head, equals, tail = text.partition("=")
        if equals and head.split(".")[0] in NOUNS and "." in head:
            overrides.append(text)
            continue
        if text == RANDOM:
            name, path = RANDOM, ""
        elif equals and "/" not in head:
            name, path = head, tail
        else:
            name, path = _name_of(text), text
        if not is_name(name) or name in starts or (name == RANDOM) != (not path):
            raise ConfigError(
                f"checkpoint {text!r}: give NAME=PATH with a name of its own (letters, digits, _.+-); the "
                f"word {RANDOM} alone is random initialisation."
            )
        starts[name] = path
    if not starts:
        raise ConfigError(f"name at least one checkpoint (PATH or NAME=PATH), or {RANDOM}.")
    return starts, overrides


def _name_of(path: str) -> str:
    """A file's stem; of a run's own files (model_final.pth, model_0001000.pth) the run's directory."""
    stem, folder = Path(path).stem, Path(path).parent.name
    return folder if stem.startswith("model_") and folder else stem


def main() -> None:
    """Plans, checks, runs, collects.

    Raises:
        DensesslError: the plan cannot be run, a signal stopped it, or runs failed.
    """
    args = parser().parse_intermixed_args()
    check_common_options(args)
    starts, overrides = split_arguments(args.opts)
    baseline = args.baseline or (RANDOM if RANDOM in starts else "")
    if baseline and baseline not in starts:
        raise ConfigError(f"--baseline {baseline}: it is none of the starts {', '.join(starts)}.")
    quiet_known_warnings()

    from densessl.benchmark import checks, tables  # imports torch
    from densessl.benchmark.cells import shell
    from densessl.benchmark.collect import collect, strangers
    from densessl.benchmark.plan import plan_transfer
    from densessl.benchmark.suites import read_tasks

    tasks, output = read_tasks(args.suite.split(",")), Path(args.output)
    cells = plan_transfer(starts, tasks, args.seeds, [f"train.device={args.device}", *overrides])
    configs = checks.load_configs(cells)

    def check() -> None:
        checks.check_runs(cells, configs, args.num_gpus)
        checks.check_weights(cells, configs, progress)

    def report() -> tables.Result:
        told = ", ".join(f"{name} from {path or 'random weights'}" for name, path in starts.items())
        result = tables.Result(
            title="Transfer benchmark",
            command=shell(["python", *sys.argv]),
            date=date.today().isoformat(),
            seeds=tuple(range(args.seeds)),
            titles={task.name: task.title for task in tasks},
            entries=collect(cells, output),
            baseline=baseline if len(starts) > 1 else "",
            strangers=strangers(cells, output),
            notes=[f"Starts: {told}."],
            facts={"starts": starts},
        )
        progress(f"wrote {', '.join(map(str, tables.write(result, output)))}")
        return result

    execute(cells, output, args, check, report)


if __name__ == "__main__":
    run_main(main)
