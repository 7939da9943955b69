"""Assembles the report of a pretraining run and the fine-tuning runs that used it: one HTML file.

What is not there yet (no checkpoint, no evaluation, no photographs) is said in its section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import OmegaConf

from densessl.data.datasets import register_datasets
from densessl.errors import ConfigError, DataError
from densessl.visualization import page, tables
from densessl.visualization.backbones import pretrained_backbone, untrained_backbone
from densessl.visualization.correspondences import THRESHOLD
from densessl.visualization.curves import Series, line_chart
from densessl.visualization.health import LEVELS, Facts, judge, unweighted_losses
from densessl.visualization.pictures import (
    Photograph,
    correspondence_section,
    detection_section,
    feature_section,
    read_photograph,
)
from densessl.visualization.runs import Run, is_result, read_recipe

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
UNTRAINED = 3  # random starts that are scored; the first one is drawn
# Trainer's own numbers: shown in the table of runs or of no use as a curve.
BOOKKEEPING = {
    "time",
    "data_time",
    "eta_seconds",
    "elapsed_seconds",
    "images_per_second",
    "data_wait",
    "peak_memory_mb",
    "skipped_steps",
    "loss_scale",
    "lr",
    "diagnostics/seconds",
}
# Health curves that share a chart and an axis: (title, text that the metric's name contains, axis).
CHARTS = (
    ("Segmentation and class from features, %", ("_miou", "diagnostics/knn"), None),
    ("Correspondence, %", ("diagnostics/correspondence", "diagnostics/stereo"), None),
    ("Effective rank of the trunk", ("image_rank", "cell_rank"), None),
    ("Similarity of positives and negatives", ("positive_", "negative_"), None),
    ("Positive ranked first among K+1", ("accuracy",), (0.0, 1.0)),
    ("Share of key locations that are matched", ("match_distinct",), (0.0, 1.0)),
    ("Real keys in the queue", ("queue_filled",), None),
)


@dataclass(frozen=True)
class ReportOptions:
    """Attributes:
    title: heading of the page.
    images: files or folders of photographs; empty: the held-out images of the first fine-tuning run.
    num_images: photographs used at most.
    recipes: name of a run -> config file that it started from; the report lists what was changed.
    match_threshold: cosine above which a match is drawn.
    score_threshold: score above which a detection is drawn.
    """

    title: str
    images: Sequence[str] = ()
    num_images: int = 4
    recipes: Mapping[str, str] = field(default_factory=dict)
    match_threshold: float = THRESHOLD
    score_threshold: float = 0.5


@dataclass(frozen=True)
class HeldOut:
    """Attributes:
    dataset: registered name.
    records: dataset dicts, in the order of the data set.
    """

    dataset: str
    records: list[dict]


def build_report(pretrain: Run | None, finetunes: Sequence[Run], options: ReportOptions) -> str:
    """The report as HTML.

    Args:
        pretrain: gives loss, health, correspondences and feature maps.
        finetunes: give AP and predicted masks; the first one's test set gives the held-out images.

    Raises:
        ConfigError: there is no run at all, or a path of `options.images` does not exist.
    """
    runs = [*([pretrain] if pretrain else []), *finetunes]
    if not runs:
        raise ConfigError("A report needs at least one run: give --pretrain or --finetune.")
    for name in options.recipes:
        if name not in {run.name for run in runs}:
            raise ConfigError(
                f"--recipe {name}=...: no run has this name, only {[run.name for run in runs]}."
            )
    held_out, reason = _held_out(finetunes)
    photographs = _photographs(options, held_out)
    correspondences, features = _backbone_sections(pretrain, photographs, options)
    sections = [
        ("run", "What was run", tables.what_was_run(runs)),
        ("ap", "Average precision", _ap(finetunes)),
        ("loss", "Loss curves", _loss(pretrain, finetunes)),
        ("health", "Health of the pretraining", _health(pretrain)),
        ("correspondences", "Dense correspondences", correspondences),
        ("features", "Feature maps", features),
        (
            "detections",
            "Predicted masks beside ground truth",
            _detections(finetunes, held_out, reason, options),
        ),
        ("reproduce", "How to reproduce", _reproduce(runs, finetunes, options.recipes)),
    ]
    footer = f"Written by tools/make_report.py on {date.today().isoformat()}. Loads nothing from elsewhere."
    return page.page(options.title, _lead(finetunes), sections, footer)


def _lead(finetunes: Sequence[Run]) -> str:
    task = next((t for t in ("segm", "bbox") if any(f"{t}/AP50" in r.results for r in finetunes)), None)
    if task is None:
        return "No fine-tuning run has been evaluated yet."
    reached = [f"{r.name} {r.results[f'{task}/AP50']:.1f}" for r in finetunes if f"{task}/AP50" in r.results]
    return f"{tables.TASKS[task].capitalize()} AP50 on held-out images: {', '.join(reached)}."


def _ap(finetunes: Sequence[Run]) -> str:
    if not finetunes:
        return page.missing("No fine-tuning run was given: add --finetune NAME=RUN_DIR.")
    note = "One run per row: repeat with other seeds before reading much into a small difference."
    return tables.average_precision(finetunes) + page.paragraph(note)


def _held_out(finetunes: Sequence[Run]) -> tuple[HeldOut | None, str]:
    """Test records of the first fine-tuning run, or None and the reason."""
    for run in finetunes:
        node = run.setting("dataloader.test.dataset")
        if node is None:
            continue
        register_datasets()
        node = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
        names = [node.names] if isinstance(node.names, str) else list(node.names)
        try:
            return HeldOut(names[0], list(instantiate(node))), ""
        except (DataError, KeyError, OSError) as error:
            return None, f"The held-out images of {run.name} ({names[0]}) cannot be read here: {error}"
    return None, "No fine-tuning run names held-out images (dataloader.test.dataset)."


def _photographs(options: ReportOptions, held_out: HeldOut | None) -> list[Photograph]:
    if options.images:
        files = [file for path in options.images for file in _image_files(Path(path))]
    elif held_out is not None:
        files = [Path(record["file_name"]) for record in held_out.records]
    else:
        files = []
    return [read_photograph(file) for file in _spread(files, options.num_images)]


def _image_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        kind = "has no image in it" if path.is_dir() else "does not exist"
        raise ConfigError(f"--images: {str(path)!r} {kind}. Give image files or folders of photographs.")
    return found


def _spread(items: list, count: int) -> list:
    """At most `count` items, evenly spaced, so that neighbours in a data set do not fill the page."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _backbone_sections(
    pretrain: Run | None, photographs: list[Photograph], options: ReportOptions
) -> tuple[str, str]:
    reason = ""
    if pretrain is None:
        reason = "No pretraining run was given: add --pretrain RUN_DIR."
    elif pretrain.checkpoint is None:
        reason = f"{pretrain.path} has no checkpoint yet; the run writes one every train.checkpointer.period."
    elif not photographs:
        reason = "There are no photographs to show: add --images FILE_OR_FOLDER."
    if reason:
        return page.missing(reason), page.missing(reason)
    models = {"pretrained": pretrained_backbone(pretrain)}
    models |= {f"untrained, start {i + 1}": untrained_backbone(pretrain, i) for i in range(UNTRAINED)}
    drawn = list(models)[:2]
    note = page.paragraph(
        f"Untrained is the same network before its first step, from {UNTRAINED} random starts: how far they "
        "lie apart is how much of a difference means nothing."
    )
    matches = correspondence_section(models, drawn, photographs, options.match_threshold)
    return note + matches, feature_section({name: models[name] for name in drawn}, photographs)


def _detections(
    finetunes: Sequence[Run], held_out: HeldOut | None, reason: str, options: ReportOptions
) -> str:
    if held_out is None:
        return page.missing(reason)
    if all(run.predictions() is None for run in finetunes):
        return page.missing("No run has written predictions yet; the evaluation at the end of a run does.")
    annotated = [record for record in held_out.records if record.get("annotations")]
    records = _spread(annotated, options.num_images)
    return detection_section(finetunes, records, held_out.dataset, options.score_threshold)


def _facts(pretrain: Run) -> Facts:
    return Facts(
        queue_size=pretrain.setting("model.queue_size"),
        batch=pretrain.setting("dataloader.train.total_batch_size"),
        momentum=pretrain.setting("model.momentum"),
        images=(pretrain.state.get("data") or {}).get("num_images"),
        iterations=pretrain.iterations,
    )


def _is_loss(name: str) -> bool:
    return name not in BOOKKEEPING and (name == "total_loss" or name.rsplit("/", 1)[-1].startswith("loss"))


def _objective(names: Iterable[str]) -> list[str]:
    """The weighted loss terms, their sum first."""
    return sorted((n for n in names if _is_loss(n) and "/" not in n), key=lambda n: n != "total_loss")


def _loss(pretrain: Run | None, finetunes: Sequence[Run]) -> str:
    parts = []
    if pretrain is None:
        parts.append(page.missing("No pretraining run was given: add --pretrain RUN_DIR."))
    elif not pretrain.metrics:
        parts.append(page.missing(f"{pretrain.path} has logged nothing yet."))
    else:
        parts.append(f"<h3>{escape(pretrain.name)}</h3>{_pretrain_losses(pretrain)}")
    logged = [run for run in finetunes if run.metrics]
    if logged:
        parts.append(f"<h3>Fine-tuning</h3>{_overlaid(logged)}")
    return "".join(parts)


def _pretrain_losses(run: Run) -> str:
    chance = _facts(run).chance
    weighted = [run.metrics[name] for name in _objective(run.metrics)]
    terms = list(unweighted_losses(run.metrics).values())
    charts = [line_chart(weighted, title="Objective and its weighted terms")]
    if terms:
        references = [(f"chance ln(K+1) = {chance:.2f}", chance)] if chance else []
        charts.append(line_chart(terms, title="Terms before weighting", references=references))
    if "lr" in run.metrics:
        charts.append(line_chart([run.metrics["lr"]], title="Learning rate"))
    text = ""
    if chance:
        text = page.paragraph(
            "With a queue of negatives the loss starts low, rises while real keys replace random ones, and "
            "falls later: a rise at first is normal. Staying at the chance level is not."
        )
    return f'{text}<div class="grid">{"".join(charts)}</div>'


def _overlaid(runs: Sequence[Run]) -> str:
    """One chart per loss term, and per AP when it was measured more than once, with a line per run."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    measured = [
        n for n in ("bbox/AP", "segm/AP") if any(len(r.metrics[n].values) > 1 for r in runs if n in r.metrics)
    ]
    charts = []
    for name in [*_objective(names), *(["lr"] if "lr" in names else []), *measured]:
        lines = [run.metrics[name].renamed(run.name) for run in runs if name in run.metrics]
        charts.append(line_chart(lines, title=name))
    return f'<div class="grid">{"".join(charts)}</div>'


def _health(pretrain: Run | None) -> str:
    if pretrain is None or not pretrain.metrics:
        return page.missing("There is no pretraining log to judge.")
    verdicts = judge(pretrain.metrics, _facts(pretrain))
    items = "".join(
        f'<li class="{v.level}"><span class="level">{LEVELS[v.level]}</span>{escape(v.text)}</li>'
        for v in verdicts
    )
    text = (
        "Verdicts come from fixed rules on the mean of the last tenth of each curve; the rules stand in "
        "densessl/visualization/health.py."
    )
    charts = "".join(_health_charts(pretrain.metrics))
    return f'{page.paragraph(text)}<ul class="verdicts">{items}</ul><div class="grid">{charts}</div>'


def _health_charts(metrics: dict[str, Series]) -> list[str]:
    left = {
        name: series
        for name, series in metrics.items()
        if not _is_loss(name) and not is_result(name) and name not in BOOKKEEPING
    }
    charts = []
    for title, parts, axis in CHARTS:
        chosen = [name for name in left if any(part in name for part in parts)]
        if chosen:
            charts.append(line_chart([left.pop(name) for name in chosen], title=title, value_range=axis))
    return charts + [line_chart([series], title=name) for name, series in left.items()]


def _reproduce(runs: Sequence[Run], finetunes: Sequence[Run], recipes: Mapping[str, str]) -> str:
    parts = [
        page.paragraph(
            "Each run saved its whole config, seed included; these commands train again from it. On a CPU "
            "the same versions give the same result."
        ),
        tables.commands(runs),
    ]
    if len(finetunes) > 1:
        parts += [
            "<h3>What the comparison varies</h3>",
            tables.config_differences({r.name: r.config for r in finetunes}),
        ]
    for run in runs:
        if run.name in recipes:
            compared = {"recipe": read_recipe(recipes[run.name]), run.name: run.config}
            parts += [f"<h3>{escape(run.name)} against its recipe</h3>", tables.config_differences(compared)]
    parts += ["<h3>Versions</h3>", tables.versions()]
    for run in runs:
        parts.append(
            page.details(f"Whole config of {run.name}", page.code_block(OmegaConf.to_yaml(run.config)))
        )
    return "".join(parts)


def write_report(
    output: str | Path,
    pretrain: Run | None,
    finetunes: Sequence[Run],
    options: ReportOptions,
    progress: Callable[[str], None] = print,
) -> Path:
    """Writes the report and returns its path; folders above it are made.

    Raises:
        ConfigError: `output` cannot be written; said before the pictures are made.
    """
    output = Path(output)
    existed = output.exists()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()
        if not existed:
            output.unlink()
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be written: {error.strerror}; choose another."
        ) from error
    html = build_report(pretrain, finetunes, options)
    output.write_text(html, encoding="utf-8")
    progress(f"Report: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    return output
