"""What a comparison of methods adds to a table: its data and its hyper-parameters."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from densessl.benchmark.collect import Entry, values
from densessl.benchmark.plan import trial_row
from densessl.benchmark.suites import Comparison, Trial
from densessl.benchmark.tables import metric_title, table
from densessl.checkpoint.compare import tree_differences
from densessl.errors import DataError

DATA = "data.json"
_NO_LEAK = (
    "No validation picture is among the training pictures, by path and by perceptual hash "
    "(densessl/benchmark/leaks.py)."
)


def check_data(found: dict[str, dict], output: Path) -> None:
    """Records the data sets of a comparison at its start, and compares them when it goes on.

    Args:
        found: of `checks.check_leaks`.

    Raises:
        DataError: the pictures are not those that earlier runs in `output` were made with.
    """
    path = output / DATA
    before = read_data(output)
    changes = {
        f"{name}.{key}": change
        for name in before.keys() & found.keys()
        for key, change in tree_differences(before[name], found[name]).items()
    }
    if changes:
        told = "; ".join(f"{key}: {change}" for key, change in changes.items())
        raise DataError(
            f"{output} was begun with other pictures: {told}. Put those back, or choose another --output."
        )
    path.write_text(json.dumps({**before, **found}, indent=1) + "\n")


def read_data(output: Path) -> dict[str, dict]:
    """What `check_data` recorded; {} before the first run.

    Raises:
        DataError: the file is damaged.
    """
    path = output / DATA
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it if the pictures are still those of the earlier runs."
        ) from error


def notes(suite: Comparison, output: Path, all_trials: bool = False) -> list[str]:
    """Paragraphs: data, leak check, hyper-parameters and how they were chosen."""
    data = "; ".join(f"{name}, {facts['images']} pictures" for name, facts in read_data(output).items())
    rows = []
    for method in suite.methods:
        trials = (
            list(enumerate(method.trials)) if all_trials else [(method.chosen, method.trials[method.chosen])]
        )
        for index, trial in trials:
            name = trial_row(method, index) if all_trials else method.name
            tuned = method.tuned or "not tuned: the trials have not been run"
            rows.append([name, _settings(trial), f"{index} of 0..{len(method.trials) - 1}", tuned])
    return [
        f"Data: {data}. {_NO_LEAK}" if data else f"Data: not opened yet; `{suite.data}` builds it.",
        f"Equal in all methods: {', '.join(suite.same_pretrain)} of the pretraining; "
        f"{', '.join(suite.same_downstream)} of the fine-tuning; seed by seed the initial trunk.",
        f"Hyper-parameters:\n\n{table(['', 'settings', 'trial', 'tuning'], rows)}",
    ]


def trials_table(suite: Comparison, entries: Sequence[Entry]) -> str:
    """What each trial of each method reached, and the best; a method with a missing trial has no best."""
    task, metric = suite.select
    count = len(suite.methods[0].trials)
    rows = []
    for method in suite.methods:
        reached = [
            values(entries, task, trial_row(method, i), metric).get(suite.tuning_seed) for i in range(count)
        ]
        complete = None not in reached
        best = str(reached.index(max(reached))) if complete else "incomplete"
        rows.append([method.name, *("none" if v is None else f"{v:.2f}" for v in reached), best])
    head = ["", *(f"trial {i}" for i in range(count)), "best"]
    return f"Trials, {metric_title(metric)} of {task}, seed {suite.tuning_seed}:\n\n{table(head, rows)}"


def facts(suite: Comparison, output: Path) -> dict[str, Any]:
    """The same for the JSON file."""
    return {"suite": suite.name, "data": read_data(output), "methods": [asdict(m) for m in suite.methods]}


def _settings(trial: Trial) -> str:
    parts = [("pretraining", trial.pretrain), ("fine-tuning", trial.downstream)]
    return "; ".join(f"{name} {', '.join(values)}" for name, values in parts if values) or "as in the configs"
