#!/usr/bin/env python
"""Compares pretraining methods: same pictures, initial weights, budget and fine-tuning, several seeds.

    tools/compare_methods.py --suite mini_rcnn --seeds 3
    tools/compare_methods.py --suite mini_rcnn --tiny --seeds 1 --device cpu      smoke test
    tools/compare_methods.py --suite mini_rcnn --tune                             every trial, one seed

A suite is a file in configs/benchmarks. What must be equal in all methods is compared, and no validation
picture may be among the training pictures (by path and by perceptual hash), before the first run. Run the
same command again after an interruption: finished runs are recognised, the others resume.
"""

import argparse
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from densessl.benchmark.command import add_common_options, check_common_options, execute, progress
from densessl.engine.launch import quiet_known_warnings, run_main
from densessl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """The command line; built without importing torch."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument(
        "--suite", required=True, metavar="NAME", help="file in configs/benchmarks, or a path"
    )
    result.add_argument("--methods", metavar="NAME,...", help="some of the suite's methods (default: all)")
    result.add_argument("--tiny", action="store_true", help="smoke test: few pixels, few steps")
    result.add_argument("--tune", action="store_true", help="run every trial of every method with one seed")
    result.add_argument(
        "--output",
        metavar="DIR",
        help="default: output/benchmarks/SUITE, with -tiny, -tuning where it applies",
    )
    add_common_options(result)
    return result


def main() -> None:
    """Plans, checks, runs, collects.

    Raises:
        DensesslError: the comparison is not fair or cannot be run, a signal stopped it, or runs failed.
    """
    args = parser().parse_intermixed_args()
    check_common_options(args)
    quiet_known_warnings()

    from densessl.benchmark import checks, comparison, plan, plots, tables  # imports torch
    from densessl.benchmark.cells import shell
    from densessl.benchmark.collect import collect, strangers
    from densessl.benchmark.suites import nearest, read_comparison

    suite = read_comparison(args.suite, args.tiny)
    if args.methods:
        names = [method.name for method in suite.methods]
        unknown = [name for name in args.methods.split(",") if name not in names]
        if unknown:
            raise ConfigError(f"--methods: unknown {unknown[0]!r}.{nearest(unknown[0], names)}")
        chosen = args.methods.split(",")
        suite = replace(suite, methods=tuple(m for m in suite.methods if m.name in chosen))
    overrides = [f"train.device={args.device}", *args.opts]
    planned = plan.plan_tuning(suite, overrides) if args.tune else None
    cells = planned or plan.plan_comparison(suite, args.seeds, overrides)
    suffix = ("-tiny" if args.tiny else "") + ("-tuning" if args.tune else "")
    output = Path(args.output or f"output/benchmarks/{suite.name}{suffix}")
    configs = checks.load_configs(cells)
    keys = checks.task_keys(cells, suite.same_pretrain, suite.same_downstream)
    checks.check_fair(cells, configs, keys)

    def check() -> None:
        checks.check_runs(cells, configs, args.num_gpus)
        comparison.check_data(checks.check_leaks(cells, configs, progress), output)

    def report() -> tables.Result:
        entries = collect(cells, output)
        notes = comparison.notes(suite, output, all_trials=args.tune)
        if args.tune:
            notes.append(comparison.trials_table(suite, entries))
        present = suite.baseline in {method.name for method in suite.methods}
        result = tables.Result(
            title=suite.title + (", smoke test (--tiny): the numbers mean nothing" if args.tiny else ""),
            command=shell(["python", *sys.argv]),
            date=date.today().isoformat(),
            seeds=(suite.tuning_seed,) if args.tune else tuple(range(args.seeds)),
            titles={task.name: task.title for task in suite.tasks},
            entries=entries,
            baseline=suite.baseline if present and len(suite.methods) > 1 and not args.tune else "",
            strangers=strangers(cells, output),
            notes=notes,
            facts=comparison.facts(suite, output),
        )
        written = [*tables.write(result, output), *plots.write_plots(result, output)]
        progress(f"wrote {', '.join(map(str, written))}")
        return result

    execute(cells, output, args, check, report)


if __name__ == "__main__":
    run_main(main)
