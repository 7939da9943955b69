"""Dense correspondences of several backbones: scored on the same pairs of views, drawn, and put into words.

Every backbone is scored on all of its mutual matches and drawn with equally many, the most similar ones. A
fixed threshold such as the 0.9 with which the authors of DenseCL drew theirs would compare nothing: features
of an untrained network all lie close together (the median cosine of a mutual match is 0.95, that of the
quickstart's pretrained network 0.8 to 0.86), so that it keeps most of one and little of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from scipy import stats
from torch import Tensor

from densessl.visualization import page
from densessl.visualization.backbones import FeatureExtractor
from densessl.visualization.correspondences import (
    MatchAccuracy,
    Matches,
    correct_pairs,
    draw_matches,
    match_accuracy,
    mutual_matches,
)
from densessl.visualization.photographs import Photograph
from densessl.visualization.views import ViewPair, view_pair

VIEW_SIZE = 224  # pixels: the usual crop of pretraining, 7 x 7 cells at stride 32
PAIRS_PER_IMAGE = 3
DRAWN_PAIRS = 3
DRAWN_MATCHES = 16  # more lines hide the photographs
NO_THRESHOLD = -1.0
COVERAGE = 0.95  # of the interval of a difference

Scores = Mapping[str, Sequence[MatchAccuracy]]  # backbone -> one sum of PAIRS_PER_IMAGE pairs per photograph


def pair_of(photographs: Sequence[Photograph], index: int, repeat: int) -> ViewPair:
    """Pair number `repeat` of a photograph: the same for every backbone and in every report."""
    return view_pair(photographs[index].image, VIEW_SIZE, seed=index * PAIRS_PER_IMAGE + repeat)


def score_backbones(
    models: Mapping[str, FeatureExtractor], photographs: Sequence[Photograph], threshold: float = NO_THRESHOLD
) -> Scores:
    """Scores all backbones on the same PAIRS_PER_IMAGE pairs of views of each photograph."""
    scores: dict[str, list[MatchAccuracy]] = {name: [] for name in models}
    for index in range(len(photographs)):
        sums = dict.fromkeys(models, MatchAccuracy())
        for repeat in range(PAIRS_PER_IMAGE):
            pair = pair_of(photographs, index, repeat)
            for name, model in models.items():
                maps = model(pair.images[0]), model(pair.images[1])
                sums[name] += match_accuracy(*maps, *pair.geometry, threshold)
        for name, total in sums.items():
            scores[name].append(total)
    return scores


def total(parts: Sequence[MatchAccuracy]) -> MatchAccuracy:
    """The sum over photographs."""
    return sum(parts, MatchAccuracy())


def share(score: MatchAccuracy) -> float:
    """Share of the locations whose nearest neighbour is right: the number to compare; NaN without one."""
    return score.nearest_correct / score.cells if score.cells else math.nan


def difference(
    trained: Sequence[MatchAccuracy], untrained: Sequence[Sequence[MatchAccuracy]]
) -> tuple[float, float] | None:
    """Gain in `share` over the mean of the untrained starts, and half the width of its interval.

    Paired by photograph, since the pairs of one photograph resemble each other; Student's t at COVERAGE.

    Args:
        trained: one score per photograph.
        untrained: the same of each start.

    Returns:
        (mean, half width) as shares, or None with fewer than two photographs.
    """
    gains = [
        share(score) - float(np.mean([share(start[i]) for start in untrained]))
        for i, score in enumerate(trained)
        if score.cells
    ]
    if len(gains) < 2:
        return None
    half = stats.t.ppf((1 + COVERAGE) / 2, len(gains) - 1) * stats.sem(gains)
    return float(np.mean(gains)), float(half)


def in_words(
    name: str, trained: Sequence[MatchAccuracy], untrained: Sequence[Sequence[MatchAccuracy]]
) -> str:
    """What the scores of one pretrained backbone tell, with its numbers."""
    starts = [share(total(start)) for start in untrained]
    chance = total(trained).chance / max(total(trained).cells, 1)
    text = (
        f"{name}: the nearest neighbour is right for {share(total(trained)):.1%} of the locations; for the "
        f"same network untrained {min(starts):.1%} to {max(starts):.1%}, by chance {chance:.1%}."
    )
    found = difference(trained, untrained)
    if found is None:
        return f"{text} One photograph does not tell how sure that is: give more."
    mean, half = found
    text += f" Averaged over photographs, pretraining changes it by {100 * mean:+.1f} points"
    text += f" ({COVERAGE:.0%} interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}): "
    if mean - half > 0:
        return text + "it finds places again better than the untrained network."
    if mean + half < 0:
        return text + (
            "it finds places again worse than the untrained network, whose random filters keep local "
            "texture. Judge the run by its average precision too."
        )
    return text + "less than photographs differ, so this does not show that pretraining helped or harmed."


def accuracy_table(scores: Scores, threshold: float) -> str:
    """One row per backbone."""
    headers = [
        "Backbone",
        "nearest neighbour right",
        "by chance",
        "mutual matches per pair",
        "of these right",
    ]
    rows = []
    for name, parts in scores.items():
        t, pairs = total(parts), len(parts) * PAIRS_PER_IMAGE
        right = f"{t.mutual_correct / t.mutual:.1%}" if t.mutual else "n/a"
        cells = max(t.cells, 1)
        rows.append([name, f"{share(t):.1%}", f"{t.chance / cells:.1%}", f"{t.mutual / pairs:.1f}", right])
    count = len(next(iter(scores.values())))
    caption = (
        f"Matches against true geometry: {count * PAIRS_PER_IMAGE} pairs of views of {count} photographs"
    )
    if threshold > NO_THRESHOLD:
        caption += f"; mutual matches have a cosine above {threshold:g}"
    return page.table(headers, rows, caption=caption, numeric=True)


def matched_pair(model: FeatureExtractor, pair: ViewPair, threshold: float) -> tuple[np.ndarray, str]:
    """A drawing of the DRAWN_MATCHES most similar mutual matches of one pair, and what it shows in words."""
    maps = model(pair.images[0]), model(pair.images[1])
    size = tuple(maps[0].shape[1:])
    matches = mutual_matches(*maps, threshold)
    correct = correct_pairs(size, *pair.geometry)[0][matches.query, matches.key]
    shown = slice(0, DRAWN_MATCHES)
    drawing = draw_matches(*pair.images, matches[shown], size, correct[shown])
    return drawing, _counted(matches, correct)


def _counted(matches: Matches, correct: Tensor) -> str:
    if not len(matches):
        return "no mutual match"
    words = f"{int(correct.sum())} of {len(matches)} mutual matches right"
    return words if len(matches) <= DRAWN_MATCHES else f"{words}, the {DRAWN_MATCHES} most similar drawn"


def correspondence_section(
    models: Mapping[str, FeatureExtractor],
    starts: Mapping[str, Sequence[str]],
    photographs: Sequence[Photograph],
    threshold: float = NO_THRESHOLD,
) -> str:
    """Scores, words and drawings.

    Args:
        models: name -> features; all are scored.
        starts: name of a pretrained backbone -> names of its untrained starts, the first of which is drawn.
        photographs: all are scored; the first pairs of the first DRAWN_PAIRS are drawn.
        threshold: cosine above which a mutual match counts and is drawn.
    """
    scores = score_backbones(models, photographs, threshold)
    limit = f" with a cosine above {threshold:g}" if threshold > NO_THRESHOLD else ""
    text = (
        "Two views of one photograph are cut at different places and scales, every second one mirrored, and "
        "the colours of one are changed. Each location of the feature map looks for its nearest neighbour "
        "in the other view by cosine similarity; since the crop boxes are known, so is the true partner. A "
        "match is right within one cell of the feature map."
    )
    words = [in_words(n, scores[n], [scores[start] for start in names]) for n, names in starts.items()]
    key = (
        f"Lines join mutual nearest neighbours{limit}, the {DRAWN_MATCHES} most similar of each pair. Green "
        "with a dot at both ends is right; orange with a cross is wrong."
    )
    drawn = list(dict.fromkeys(n for name, names in starts.items() for n in (name, names[0])))
    figures = []
    for index in range(min(DRAWN_PAIRS, len(photographs))):
        pair = pair_of(photographs, index, repeat=0)
        for name in drawn:
            drawing, counted = matched_pair(models[name], pair, threshold)
            alt = f"Two views of {photographs[index].name} with matches of the {name} backbone: {counted}."
            caption = f"<strong>{escape(name)}</strong>, {escape(photographs[index].name)}: {escape(counted)}"
            figures.append(page.figure(page.picture(drawing, alt), caption))
    return (
        page.paragraph(text)
        + "".join(map(page.paragraph, words))
        + accuracy_table(scores, threshold)
        + page.paragraph(key)
        + f'<div class="pairs">{"".join(figures)}</div>'
    )
