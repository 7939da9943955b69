"""Sections of the report that are drawn from the metrics: losses, health, diagnostics, speed and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from densessl.visualization import page, tables
from densessl.visualization.curves import Series, line_charts
from densessl.visualization.diagnostics import diagnostics_section, is_diagnostic
from densessl.visualization.health import LEVELS, Facts, judge, unweighted_losses
from densessl.visualization.runs import Run, is_result

# Trainer's own numbers that are in the table of speed or of no use as a curve.
BOOKKEEPING = {"time", "data_time", "eta_seconds", "elapsed_seconds", "skipped_steps", "loss_scale"}
SPEED = {  # metric -> (title, unit, factor)
    "images_per_second": ("Images per second", "images/s", 1.0),
    "data_wait": ("Time spent waiting for data", "% of the step", 100.0),
    "peak_memory_mb": ("Peak memory", "GiB", 1 / 1024),
}
# Health curves that share a chart and an axis: (title, text that the metric's name contains, unit, axis).
CHARTS = (
    ("Similarity of positives and negatives", ("positive_", "negative_"), "cosine", None),
    ("Positive ranked first among K+1", ("accuracy",), "share of queries", (0.0, 1.0)),
    ("Key locations that are matched", ("match_distinct",), "share of locations", (0.0, 1.0)),
    ("Real keys in the queue", ("queue_filled",), "keys", None),
    ("Gradient norm", ("grad_norm",), "L2 norm", None),
)
TITLES = {"lr": ("Learning rate", ""), "total_loss": ("Total loss", ""), "bbox/AP": ("Box AP", "AP, %")}
TITLES["segm/AP"] = ("Mask AP", "AP, %")
NO_PRETRAINING = "No pretraining run was given: add its directory."


def grid(charts: Iterable[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="grid">{"".join(charts)}</div>'


def per_run(runs: Sequence[Run], body: Callable[[Run], str]) -> str:
    """A part per run, under its name."""
    if not runs:
        return page.missing(NO_PRETRAINING)
    return "".join(f"<h3>{escape(run.name)}</h3>{body(run)}" for run in runs)


def facts_of(run: Run) -> Facts:
    """What the rules of health need beyond the curves."""
    return Facts(
        queue_size=run.setting("model.queue_size"),
        batch=run.setting("dataloader.train.total_batch_size"),
        momentum=run.setting("model.momentum"),
        images=(run.state.get("data") or {}).get("num_images"),
        iterations=run.iterations,
        planned=run.setting("train.max_iter"),
    )


def _is_loss(name: str) -> bool:
    return name not in BOOKKEEPING and (name == "total_loss" or name.rsplit("/", 1)[-1].startswith("loss"))


def _objective(names: Iterable[str]) -> list[str]:
    """The weighted loss terms, their sum first."""
    return sorted((n for n in names if _is_loss(n) and "/" not in n), key=lambda n: n != "total_loss")


def loss_section(pretrains: Sequence[Run], finetunes: Sequence[Run]) -> str:
    """Curves of each pretraining run, and of all fine-tuning runs in shared charts."""
    parts = [per_run(pretrains, _pretrain_losses)]
    logged = [run for run in finetunes if run.metrics]
    if logged:
        parts.append(f"<h3>Fine-tuning</h3>{_overlaid(logged)}")
    silent = [run.name for run in finetunes if not run.metrics]
    if silent:
        parts.append(page.missing(f"Nothing logged yet: {', '.join(silent)}."))
    return "".join(parts)


def _pretrain_losses(run: Run) -> str:
    if not run.metrics:
        return page.missing(f"{run.path} has logged nothing yet.")
    chance = facts_of(run).chance
    weighted = [run.metrics[name] for name in _objective(run.metrics)]
    terms = list(unweighted_losses(run.metrics).values())
    charts = line_charts(weighted, title="Objective and its weighted terms", unit="loss")
    if terms:
        references = [(f"chance ln(K+1) = {chance:.2f}", chance)] if chance else []
        charts += line_charts(terms, title="Terms before weighting", unit="loss", references=references)
    if "lr" in run.metrics:
        charts += line_charts([run.metrics["lr"]], title="Learning rate")
    text = ""
    if chance and terms:
        text = page.paragraph(
            "With a queue of negatives the loss starts low, rises while real keys replace random ones, and "
            "falls later: a rise at first is normal. Staying at the chance level is not."
        )
    return text + grid(charts)


def _overlaid(runs: Sequence[Run]) -> str:
    """One chart per metric with a line per run; AP when it was measured more than once."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    measured = [
        n for n in ("bbox/AP", "segm/AP") if any(len(r.metrics[n].values) > 1 for r in runs if n in r.metrics)
    ]
    first = [*_objective(names), *(["lr"] if "lr" in names else []), *measured]
    other = [
        n for n in names if n not in first and not is_result(n) and not _is_known(n) and n not in BOOKKEEPING
    ]
    body = grid(c for name in first for c in _compared(runs, name))
    if other:
        more = grid(c for name in other for c in _compared(runs, name))
        body += page.details(f"{len(other)} more curves of the fine-tuning runs", more)
    return body


def _is_known(name: str) -> bool:
    """Shown in a section of its own."""
    return name in SPEED or is_diagnostic(name)


def _compared(runs: Sequence[Run], name: str) -> list[str]:
    title, unit = TITLES.get(name, (name, ""))
    lines = [run.metrics[name].renamed(run.name) for run in runs if name in run.metrics]
    return line_charts(lines, title=title, unit=unit)


def health_section(pretrains: Sequence[Run]) -> str:
    """Verdicts in words and the curves behind them."""
    if not any(run.metrics for run in pretrains):
        return page.missing("There is no pretraining log to judge.")
    text = (
        "Verdicts come from fixed rules, most of them on the mean of the last tenth of a curve; "
        "docs/report.md lists them."
    )
    return page.paragraph(text) + per_run(pretrains, _health)


def _health(run: Run) -> str:
    if not run.metrics:
        return page.missing(f"{run.path} has logged nothing yet.")
    items = "".join(
        f'<li class="{v.level}"><span class="level">{LEVELS[v.level]}:</span>{escape(v.text)}</li>'
        for v in judge(run.metrics, facts_of(run))
    )
    verdicts = (
        f'<ul class="verdicts">{items}</ul>' if items else page.missing("No rule applies to what was logged.")
    )
    return verdicts + grid(_health_charts(run.metrics))


def _health_charts(metrics: Mapping[str, Series]) -> list[str]:
    """Known curves in shared charts; every metric that no other section shows in a chart of its own."""
    shown = BOOKKEEPING | {"lr"}
    left = {
        name: series
        for name, series in metrics.items()
        if not (_is_loss(name) or is_result(name) or _is_known(name) or name in shown)
    }
    charts = []
    for title, parts, unit, axis in CHARTS:
        chosen = [name for name in left if any(part in name for part in parts)]
        if chosen:
            charts += line_charts([left.pop(n) for n in chosen], title=title, unit=unit, value_range=axis)
    for name, series in left.items():
        charts += line_charts([series], title=name)
    return charts


def diagnostics_of(pretrains: Sequence[Run]) -> str:
    """The diagnostics of every pretraining run."""
    return per_run(pretrains, lambda run: diagnostics_section(run.metrics))


def speed_section(runs: Sequence[Run]) -> str:
    """Time, throughput and memory: a table of all runs, and the curves."""
    charts = []
    for name, (title, unit, factor) in SPEED.items():
        lines = [run.metrics[name].renamed(run.name).scaled(factor) for run in runs if name in run.metrics]
        if lines:
            charts += line_charts(lines, title=title, unit=unit)
    return tables.speed(runs) + grid(charts)
