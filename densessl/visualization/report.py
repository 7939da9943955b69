"""Assembles the report of pretraining runs and of the fine-tuning runs that used them: one HTML file.

What is not there yet (no checkpoint, no evaluation, no photographs) is said in its section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import OmegaConf

from densessl.data.datasets import register_datasets
from densessl.errors import ConfigError, DataError
from densessl.visualization import page, sections, tables
from densessl.visualization.backbones import FeatureExtractor, pretrained_backbone, untrained_backbone
from densessl.visualization.matching import NO_THRESHOLD, correspondence_section
from densessl.visualization.photographs import Photograph, image_files, read_photograph, spread
from densessl.visualization.pictures import cluster_section, detection_section, feature_section
from densessl.visualization.runs import Run, read_recipe

UNTRAINED = 3  # random starts that are scored; the first one is drawn
SCORED = 16  # photographs that correspondences are scored on, at least: with four, chance decides


@dataclass(frozen=True)
class ReportOptions:
    """Attributes:
    title: heading of the page.
    images: files or folders of photographs; empty: the held-out images of the first fine-tuning run.
    num_images: photographs drawn at most; correspondences are scored on SCORED or more.
    recipes: name of a run -> config file that it started from; by default the one that its log names.
    match_threshold: cosine above which a match is drawn.
    score_threshold: score above which a detection is drawn.
    """

    title: str
    images: Sequence[str] = ()
    num_images: int = 4
    recipes: Mapping[str, str] = field(default_factory=dict)
    match_threshold: float = NO_THRESHOLD
    score_threshold: float = 0.5


@dataclass(frozen=True)
class HeldOut:
    """Attributes:
    dataset: registered name.
    records: dataset dicts, in the order of the data set.
    """

    dataset: str
    records: list[dict]


def build_report(pretrains: Sequence[Run], finetunes: Sequence[Run], options: ReportOptions) -> str:
    """The report as HTML.

    Args:
        pretrains: give loss, health, diagnostics, correspondences, feature and cluster maps.
        finetunes: give AP and predicted masks; the first one's test set gives the held-out images.

    Raises:
        ConfigError: there is no run at all, two runs have one name, or a path of `options.images` does not
            exist.
    """
    runs = [*pretrains, *finetunes]
    _check(runs, options)
    held_out, reason = _held_out(finetunes)
    photographs = _photographs(options, held_out)
    correspondences, features, clusters = _backbone_sections(pretrains, photographs, options)
    body = [
        ("run", "What was run", tables.what_was_run(runs) + _changes(runs, finetunes, options.recipes)),
        ("ap", "Average precision", _ap(finetunes)),
        ("health", "Health of the pretraining", sections.health_section(pretrains)),
        ("diagnostics", "Diagnostics of the features", sections.diagnostics_of(pretrains)),
        ("loss", "Loss curves", sections.loss_section(pretrains, finetunes)),
        ("correspondences", "Dense correspondences", correspondences),
        ("features", "Feature maps", features),
        ("clusters", "Cluster maps", clusters),
        ("detections", "Predictions beside ground truth", _detections(finetunes, held_out, reason, options)),
        ("speed", "Speed and memory", sections.speed_section(runs)),
        ("reproduce", "How to reproduce", _reproduce(runs)),
    ]
    footer = f"Written by tools/make_report.py on {date.today().isoformat()}. Loads nothing from elsewhere."
    return page.page(options.title, _lead(finetunes), body, footer)


def _check(runs: Sequence[Run], options: ReportOptions) -> None:
    names = [run.name for run in runs]
    if not runs:
        raise ConfigError("A report needs at least one run: give its directory.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two runs are called {name!r}: give each its own NAME=RUN_DIR.")
    for name in options.recipes:
        if name not in names:
            raise ConfigError(f"--recipe {name}=...: no run has this name, only {names}.")


def _lead(finetunes: Sequence[Run]) -> str:
    task = next((t for t in ("segm", "bbox") if any(f"{t}/AP50" in r.results for r in finetunes)), None)
    if task is None:
        return "No fine-tuning run has been evaluated yet."
    reached = [f"{r.name} {r.results[f'{task}/AP50']:.1f}" for r in finetunes if f"{task}/AP50" in r.results]
    return f"{tables.TASKS[task].capitalize()} AP50 on held-out images: {', '.join(reached)}."


def _ap(finetunes: Sequence[Run]) -> str:
    if not finetunes:
        return page.missing("No fine-tuning run was given: add its directory, or --finetune NAME=RUN_DIR.")
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
    """Those that are scored; the drawn ones are the first `num_images`."""
    if options.images:
        files = image_files(options.images)
    elif held_out is not None:
        files = [Path(record["file_name"]) for record in held_out.records]
    else:
        files = []
    return [read_photograph(file) for file in spread(files, max(SCORED, options.num_images))]


def _backbone_sections(
    pretrains: Sequence[Run], photographs: list[Photograph], options: ReportOptions
) -> tuple[str, str, str]:
    """Correspondences, feature maps and cluster maps."""
    ready = [run for run in pretrains if run.checkpoint is not None]
    reasons = [
        f"{run.name}: {run.path} has no checkpoint yet; the run writes one every train.checkpointer.period."
        for run in pretrains
        if run.checkpoint is None
    ]
    if not pretrains:
        reasons = [sections.NO_PRETRAINING]
    elif ready and not photographs:
        reasons.append("There are no photographs to show: add --images FILE_OR_FOLDER.")
    note = "".join(map(page.missing, reasons))
    if not ready or not photographs:
        return note, note, note
    models, starts = _backbones(ready)
    drawn = {name: models[name] for run, names in starts.items() for name in (run, names[0])}
    shown = spread(photographs, options.num_images)
    text = page.paragraph(
        f"Untrained is the same network before its first step, from {UNTRAINED} random starts: how far they "
        "lie apart is how much of a difference means nothing."
    )
    matches = correspondence_section(models, starts, photographs, options.match_threshold)
    return note + text + matches, note + feature_section(drawn, shown), note + cluster_section(drawn, shown)


def _backbones(runs: Sequence[Run]) -> tuple[dict[str, FeatureExtractor], dict[str, list[str]]]:
    """All backbones by name, and for each run the names of its untrained starts.

    Runs with equal backbone, output, seed and pixel statistics share their starts.
    """
    models: dict[str, FeatureExtractor] = {}
    starts: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for run in runs:
        keys = ("model.backbone", "model.in_feature", "train.seed", "model.pixel_mean", "model.pixel_std")
        key = str([run.setting(k) for k in keys])
        if key not in shared:
            of = f" of {run.name}" if shared else ""
            shared[key] = [f"untrained{of}, start {i + 1}" for i in range(UNTRAINED)]
            models |= {name: untrained_backbone(run, i) for i, name in enumerate(shared[key])}
        models[run.name], starts[run.name] = pretrained_backbone(run), shared[key]
    first = {name: models[name] for name in starts}
    return first | models, starts


def _detections(
    finetunes: Sequence[Run], held_out: HeldOut | None, reason: str, options: ReportOptions
) -> str:
    if held_out is None:
        return page.missing(reason)
    if all(run.predictions() is None for run in finetunes):
        return page.missing("No run has written predictions yet; the evaluation at the end of a run does.")
    annotated = [record for record in held_out.records if record.get("annotations")]
    records = spread(annotated, options.num_images)
    return detection_section(finetunes, records, held_out.dataset, options.score_threshold)


def _changes(runs: Sequence[Run], finetunes: Sequence[Run], recipes: Mapping[str, str]) -> str:
    """What each run changed in its recipe, and in what the fine-tuning runs differ."""
    parts = []
    for run in runs:
        file = recipes.get(run.name) or run.recipe
        parts.append(f"<h3>{escape(run.name)} against its recipe</h3>")
        if file is not None:
            compared = {"recipe": read_recipe(str(file)), run.name: run.config}
            parts.append(tables.config_differences(compared))
        else:
            named = run.logged["recipe"]
            why = f"Its log names {named}, which is not here" if named else "Its log names no recipe"
            parts.append(page.missing(f"{why}: add --recipe {run.name}=CONFIG to see what was changed."))
    if len(finetunes) > 1:
        parts.append("<h3>In what the fine-tuning runs differ</h3>")
        parts.append(tables.config_differences({r.name: r.config for r in finetunes}))
    return "".join(parts)


def _reproduce(runs: Sequence[Run]) -> str:
    parts = [
        page.paragraph(
            "Each run saved its whole config, seed included; these commands train again from it. On a CPU "
            "the same versions give the same result."
        ),
        tables.commands(runs),
        "<h3>Versions</h3>",
        tables.versions(),
        "<h3>Configs</h3>",
    ]
    for run in runs:
        parts.append(
            page.details(f"Whole config of {run.name}", page.code_block(OmegaConf.to_yaml(run.config)))
        )
    return "".join(parts)


def write_report(
    output: str | Path,
    pretrains: Sequence[Run],
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
    html = build_report(pretrains, finetunes, options)
    output.write_text(html, encoding="utf-8")
    progress(f"Report: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    return output
