"""Tables of the report: what was run, what it reached, and how to get it again."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata

import numpy as np
from omegaconf import DictConfig, OmegaConf

from densessl.visualization import page
from densessl.visualization.runs import Run

METRICS = ("AP", "AP50", "AP75")
TASKS = {"bbox": "box", "segm": "mask"}


def what_was_run(runs: Sequence[Run]) -> str:
    """One column per run, one row per fact; facts that no run knows are left out."""
    facts = [_facts(run) for run in runs]
    rows = []
    for name in facts[0]:
        cells = [fact[name] for fact in facts]
        if any(cells):
            rows.append([name, *(cell or "not recorded" for cell in cells)])
    return page.table(
        ["", *(run.name for run in runs)], rows, caption="From the config, log and checkpoint of each run"
    )


def _facts(run: Run) -> dict[str, str]:
    """Row name -> text, "" where the run does not say; the same names for every run."""
    images = (run.state.get("data") or {}).get("num_images")
    done, planned = run.iterations, run.setting("train.max_iter")
    batch = run.setting("dataloader.train.total_batch_size")
    iterations = "" if done is None else f"{done:,} of {planned:,}"
    if done and batch and images:
        iterations += f" ({done * batch / images:.1f} epochs)"
    return {
        "Method": class_name(run.setting("model._target_", "")),
        "Backbone": describe_backbone(run.setting("model.backbone")),
        "Start": run.setting("train.init_checkpoint") or "random initialisation",
        "Data": _data(run),
        "Training images": f"{images:,}" if images else "",
        "Iterations": iterations,
        "Images per step": str(batch or ""),
        "Optimiser": class_name(run.setting("optimizer._target_", "")),
        "Learning rate": f"{run.setting('optimizer.lr'):g}" if run.setting("optimizer.lr") else "",
        "Seed": str(run.setting("train.seed", "")),
        "Recipe": run.logged["recipe"],
        "Directory": str(run.path),
    }


def speed(runs: Sequence[Run]) -> str:
    """Device, time, throughput and memory of each run."""
    rows = []
    for run in runs:
        seconds, memory = last(run, "elapsed_seconds"), last(run, "peak_memory_mb")
        throughput, wait, step = (_median(run, n) for n in ("images_per_second", "data_wait", "time"))
        cells = (
            _device(run),
            duration(seconds) if seconds else "",
            f"{1000 * step:,.0f} ms" if step else "",
            f"{throughput:,.1f}" if throughput else "",
            f"{wait:.0%}" if wait is not None else "",
            f"{memory / 1024:.2f} GiB" if memory else "",
        )
        rows.append([run.name, *(cell or "not recorded" for cell in cells)])
    headers = ["Run", "device", "time", "one step", "images per second", "waiting for data", "peak memory"]
    caption = "Time is of the whole run, memory its peak; the others are medians over the log lines"
    return page.table(headers, rows, caption=caption, numeric=True)


def _median(run: Run, metric: str) -> float | None:
    """The median of a metric, or None where it was not logged."""
    series = run.metrics.get(metric)
    return float(np.median(series.finite)) if series is not None and len(series.finite) else None


def last(run: Run, metric: str) -> float | None:
    """The last finite value of a metric, or None where it was not logged."""
    series = run.metrics.get(metric)
    return float(series.finite[-1]) if series is not None and len(series.finite) else None


def class_name(target: str) -> str:
    """ "package.module.DenseCL" -> "DenseCL"."""
    return str(target).rsplit(".", 1)[-1]


def duration(seconds: float) -> str:
    """Seconds as "1 h 04 min", "12 min 30 s" or "45 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def describe_backbone(node: DictConfig | None) -> str:
    """ "ResNet-18", "FPN on ResNet-18", or the name of the class or timm model; "" without a backbone."""
    if node is None:
        return ""
    name = class_name(node.get("_target_", ""))
    if "bottom_up" in node:
        return f"{name} on {describe_backbone(node.bottom_up)}"
    if "depth" in node:
        return f"ResNet-{node.depth}"
    stages = OmegaConf.select(node, "stages.depth")
    if stages is not None:  # d2's own tree: ResNet(stem, stages=make_default_stages(depth))
        return f"{name}-{stages}"
    return str(node.get("name") or name)


def _data(run: Run) -> str:
    dataset = run.setting("dataloader.train.dataset")
    if not isinstance(dataset, DictConfig):
        return "" if dataset is None else str(dataset)
    for key in ("source", "names"):
        value = dataset.get(key)
        if value:
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            return ", ".join(map(str, plain)) if isinstance(plain, (list, tuple)) else str(plain)
    return class_name(dataset.get("_target_", ""))


def _device(run: Run) -> str:
    device = run.logged["device"] or str(run.setting("train.device", ""))
    world = (run.state.get("meta") or {}).get("world_size")
    return f"{device}, {world} processes" if world and world > 1 else device


def average_precision(runs: Sequence[Run]) -> str:
    """AP of every evaluated run, then per class; runs without an evaluation are named."""
    evaluated = [run for run in runs if run.results]
    absent = [run.name for run in runs if not run.results]
    parts = []
    if evaluated:
        parts.append(_ap_table(evaluated))
        parts += [_class_table(evaluated, task) for task in TASKS]
    if absent:
        parts.append(
            page.missing(
                f"No evaluation yet: {', '.join(absent)}. Finish the run, or evaluate its newest checkpoint "
                "with tools/lazyconfig_train_net.py --eval-only, then make the report again."
            )
        )
    return "".join(parts)


def _ap_table(runs: Sequence[Run]) -> str:
    keys = [f"{task}/{m}" for task in TASKS for m in METRICS if any(f"{task}/{m}" in r.results for r in runs)]
    headers = ["Run", *(f"{TASKS[k.split('/')[0]]} {k.split('/')[1]}" for k in keys)]
    caption = "COCO average precision on the held-out images, in percent; the best of each column is bold"
    return _results_table(runs, keys, headers, caption)


def _class_table(runs: Sequence[Run], task: str) -> str:
    prefix = f"{task}/AP-"
    keys = list(dict.fromkeys(k for run in runs for k in run.results if k.startswith(prefix)))
    if not keys:
        return ""
    headers = ["Run", *(key.removeprefix(prefix) for key in keys)]
    return _results_table(runs, keys, headers, f"{TASKS[task].capitalize()} AP per class, in percent")


def _results_table(runs: Sequence[Run], keys: Sequence[str], headers: Sequence[str], caption: str) -> str:
    columns = [[run.results.get(key, math.nan) for run in runs] for key in keys]
    rows = [[run.name, *(number(column[i]) for column in columns)] for i, run in enumerate(runs)]
    best = [_best(column) for column in columns]
    return page.table(headers, rows, caption=caption, numeric=True, best=best)


def number(value: float) -> str:
    """A result for a table: "n/a" for NaN, which the evaluator gives a class without objects."""
    return f"{value:.1f}" if math.isfinite(value) else "n/a"


def _best(values: Sequence[float]) -> int | None:
    """Index of the only largest finite value among several, else None."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2 or finite.count(max(finite)) > 1:
        return None
    return list(values).index(max(finite))


def flat_config(config: DictConfig) -> dict[str, str]:
    """Dotted key -> value as text; interpolations as they are, so that a difference shows once."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            flat[prefix] = str(value)

    walk("", OmegaConf.to_container(config, resolve=False))
    return flat


def config_differences(configs: Mapping[str, DictConfig]) -> str:
    """The settings that are not the same in all of several configs, one column per name."""
    flats = [flat_config(config) for config in configs.values()]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    rows = []
    for key in keys:
        values = [flat.get(key, "not set") for flat in flats]
        if len(set(values)) > 1:
            rows.append([key, *(value or '""' for value in values)])
    names = " and ".join(configs)
    if not rows:
        return page.paragraph(f"{names} are equal in every setting.")
    return page.table(["Setting", *configs], rows, caption=f"All settings in which {names} differ")


def commands(runs: Sequence[Run]) -> str:
    """One command per run, from the config that it saved, into a new directory."""
    lines = []
    for run in runs:
        config, output = (shlex.quote(str(p)) for p in (run.path / "config.yaml", f"{run.path}_again"))
        lines.append(f"# {run.name}")
        lines.append(f"python tools/lazyconfig_train_net.py --config-file {config} train.output_dir={output}")
    return page.code_block("\n".join(lines))


def versions() -> str:
    """Versions of what made this report."""
    rows = [["Python", platform.python_version()], ["System", f"{platform.system()} {platform.machine()}"]]
    for name in ("densessl", "torch", "torchvision", "detectron2", "numpy"):
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:  # a checkout on the path without installation
            rows.append([name, "not installed as a package"])
    return page.table(["", "version"], rows, caption="Software on the machine that wrote this report")
