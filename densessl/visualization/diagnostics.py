"""Diagnostics of a pretraining run in the report: what each number means, its curve and its end.

Metrics are named `diagnostics/<name>`. Names that are not listed here are shown all the same, without a
sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from densessl.visualization import page
from densessl.visualization.curves import Series, line_charts

PREFIX = "diagnostics/"


@dataclass(frozen=True)
class Group:
    """Attributes:
    title: of the chart.
    text: one sentence: what is measured and which way is good.
    names: without the prefix; each may be absent.
    unit: of the vertical axis.
    """

    title: str
    text: str
    names: tuple[str, ...]
    unit: str = ""


GROUPS = (
    Group(
        "Dense retrieval segmentation",
        "Each location takes the labels of its nearest labelled locations in other images; higher is better.",
        ("retrieval_miou",),
        "mIoU, %",
    ),
    Group(
        "Linear segmentation probe",
        "A linear classifier on the frozen locations is scored on other images; higher is better.",
        ("linear_miou",),
        "mIoU, %",
    ),
    Group(
        "Unsupervised segmentation",
        "Clusters of the locations are matched to the classes one to one; higher is better.",
        ("cluster_miou",),
        "mIoU, %",
    ),
    Group(
        "Image nearest neighbours",
        "Each image takes the class of its nearest images by pooled features; higher is better.",
        ("knn_top1",),
        "right, %",
    ),
    Group(
        "Correspondence between two views",
        "Share of the locations whose nearest neighbour in another view of the photograph is right, beside "
        "chance; higher is better.",
        ("correspondence", "correspondence_chance"),
        "right, %",
    ),
    Group(
        "Correspondence in a stereo pair",
        "The same between the two pictures of a stereo pair with measured disparity; higher is better.",
        ("stereo", "stereo_chance"),
        "right, %",
    ),
    Group(
        "Object discovery",
        "Share of the images in which a box found from the features alone fits an object (CorLoc); higher is "
        "better.",
        ("corloc",),
        "found, %",
    ),
    Group(
        "Effective rank",
        "How many directions the features use, of pooled images and of single locations; a fall towards 1 is "
        "collapse.",
        ("image_rank", "cell_rank"),
        "directions",
    ),
    Group(
        "Spread of unit features",
        "Deviation between images and between locations, 1 when spread over the sphere; 0 is collapse.",
        ("image_spread", "cell_spread"),
        "of full spread",
    ),
    Group(
        "Alignment and uniformity",
        "Distance of two views of a photograph, and how evenly images cover the sphere; lower is better for "
        "both, and uniformity near 0 is collapse.",
        ("alignment", "uniformity"),
    ),
    Group("Cost of the diagnostics", "Time of one scoring.", ("seconds",), "seconds"),
)


def is_diagnostic(name: str) -> bool:
    """Whether a metric belongs to this section."""
    return name.startswith(PREFIX)


def diagnostics_section(metrics: Mapping[str, Series]) -> str:
    """A table of first and last values, and the curves with a sentence each; HTML.

    Args:
        metrics: of one run; those that are no diagnostics are left out.
    """
    left = {n.removeprefix(PREFIX): s for n, s in metrics.items() if is_diagnostic(n)}
    if not left:
        return page.missing(
            "No diagnostics were logged. Add the DiagnosticsHook to train.hooks to score the features while "
            "they are trained."
        )
    rows, charts = [], []
    for group in GROUPS:
        chosen = [left.pop(name).renamed(name) for name in group.names if name in left]
        if chosen:
            charts += line_charts(chosen, title=group.title, unit=group.unit, note=group.text)
            rows += [_row(series, group.unit) for series in chosen]
    for name, series in left.items():
        charts += line_charts([series.renamed(name)], title=name, note="Not described in this report.")
        rows.append(_row(series.renamed(name), ""))
    headers = ["Diagnostic", "first", "last", "unit"]
    table = page.table(headers, rows, caption="Diagnostics at the first and the last scoring", numeric=True)
    return f'{table}<div class="grid">{"".join(charts)}</div>'


def _row(series: Series, unit: str) -> list[str]:
    finite = series.finite
    ends = [f"{finite[0]:.4g}", f"{finite[-1]:.4g}"] if len(finite) else ["not finite"] * 2
    return [series.name, *ends, unit or "none"]
