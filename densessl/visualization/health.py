"""Verdicts in words on a pretraining run, by fixed rules on its logged metrics.

Each rule is one function: it returns a `Verdict`, or None where its metrics were not logged. A rule reads
the mean of the last tenth of a curve ("the end"), so that one odd value decides nothing.

Facts behind the rules: the loss of a queue method starts below the chance level ln(K+1), rises while real
keys replace random ones, and falls later; a run that stays at chance fails (facebookresearch/moco#12, #9,
#43). SimSiam collapses when the deviation of its unit-length outputs falls from 1/sqrt(D) to 0 (Chen and
He, "Exploring simple siamese representation learning", figure 2). What the rules on `diagnostics/*` go by is
measured in docs/diagnostics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from densessl.visualization.curves import Series

LEVELS = {"good": "Good", "watch": "Watch", "bad": "Problem", "info": "Note"}

COLLAPSE_GAP = 0.02  # positive minus negative cosine below this: the outputs carry no image
CHANCE_MARGIN = 0.02  # a loss within this share of ln(K+1) is at chance
FEW_MATCHES = 0.25  # share of key locations that are matched; below it a few locations attract the rest
DEAD_STD = 0.1  # sqrt(D) * deviation of unit outputs: 1 when spread over the sphere, 0 when collapsed
USED_CLUSTERS = 0.9  # share of the clusters that have members; below it some are dead
DECAYED = 0.1  # a schedule that has ended is below this share of its peak
GRADIENT_RISE = 10.0  # norm at the end over its median
ONE_DIRECTION = 1.5  # effective rank of outputs or cells: 1 when all lie on a line
LOST_RANK = 0.75  # of the cells' effective rank at the start
STALE_AGE = 2.0  # age of the oldest key over the memory 1/(1-m) of the momentum encoder


@dataclass(frozen=True)
class Verdict:
    """What a rule found.

    Attributes:
        level: a key of LEVELS.
        text: one or two sentences with the numbers behind them.
    """

    level: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What the rules need beyond the curves; None where the run does not say.

    Attributes:
        queue_size: K.
        batch: images per optimiser step.
        momentum: of the momentum encoder.
        images: in the pretraining data.
        iterations: optimiser steps done.
    """

    queue_size: int | None = None
    batch: int | None = None
    momentum: float | None = None
    images: int | None = None
    iterations: int | None = None
    planned: int | None = None

    @property
    def chance(self) -> float | None:
        """Loss of a guess among one positive and K negatives: ln(K+1)."""
        return math.log(self.queue_size + 1) if self.queue_size else None


def _named(metrics: Mapping[str, Series], ending: str) -> list[Series]:
    """Series whose name after the method's prefix is `ending`."""
    return [s for name, s in metrics.items() if name.rsplit("/", 1)[-1] == ending]


def judge(metrics: Mapping[str, Series], facts: Facts) -> list[Verdict]:
    """Applies every rule; problems come first."""
    rules = (
        *(_finite, _loss, _similarity, _spread, _output_rank, _trunk_rank, _learned, _matches, _clusters),
        *(_queue_fill, _queue_age, _queue_length, _learning_rate, _gradient),
    )
    found = [verdict for rule in rules if (verdict := rule(metrics, facts)) is not None]
    order = ("bad", "watch", "good", "info")
    return sorted(found, key=lambda v: order.index(v.level))


def _finite(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    broken = [name for name, s in metrics.items() if len(s.finite) < len(s.values)]
    if broken:
        return Verdict("bad", f"NaN or infinity was logged in {', '.join(sorted(broken))}.")
    return None


def unweighted_losses(metrics: Mapping[str, Series]) -> dict[str, Series]:
    """The loss terms before their weights: logged as `<method>/loss_*`, the weighted ones as `loss_*`."""
    return {
        name: s for name, s in metrics.items() if "/" in name and name.rsplit("/", 1)[1].startswith("loss")
    }


def _loss(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    terms = unweighted_losses(metrics)
    if facts.chance is None or not terms:
        return None
    ends = {name: s.tail() for name, s in terms.items()}
    level = f"the chance level ln(K+1) = {facts.chance:.2f} of K = {facts.queue_size:,} negatives"
    stuck = [name for name, value in ends.items() if value > facts.chance * (1 - CHANCE_MARGIN)]
    numbers = ", ".join(f"{name} ends at {value:.2f}" for name, value in ends.items())
    numbers = f"Loss: {numbers}"
    if stuck:
        return Verdict(
            "watch",
            f"{numbers}; {', '.join(stuck)} is still at {level}. Early in a run and on few images this is "
            "usual while the queue fills; a long run that stays there is not learning.",
        )
    rise = max(s.finite.max() - s.finite[0] for s in terms.values())
    path = " It rose first, which is normal while real keys replace random ones." if rise > 0.1 else ""
    return Verdict("good", f"{numbers}, below {level}.{path}")


def _similarity(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    gaps = {}
    for name, positive in metrics.items():
        partner = metrics.get(name.replace("positive_", "negative_"))
        if "positive_" in name and partner is not None:
            gaps[name] = positive.tail(), partner.tail()
    if not gaps:
        return None
    text = "; ".join(f"{name} {p:.2f} against {n:.2f}" for name, (p, n) in gaps.items())
    if any(p - n < COLLAPSE_GAP for p, n in gaps.values()):
        return Verdict(
            "bad",
            "Collapse: two views of an image are no more alike than views of different images (cosine of "
            f"positives and negatives: {text}). Lower the learning rate.",
        )
    return Verdict(
        "good",
        f"No collapse: two views of an image are closer than different images (cosine of positives and "
        f"negatives: {text}).",
    )


def _spread(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    spreads = {name: s.tail() for name, s in metrics.items() if name.endswith("feature_std")}
    if not spreads:
        return None
    text = ", ".join(f"{name} ends at {end:.2f}" for name, end in spreads.items())
    if min(spreads.values()) < DEAD_STD:
        return Verdict("bad", f"Collapse: all images give nearly the same output ({text}; 1 is full spread).")
    return Verdict("good", f"Outputs differ between images ({text}; 1 is full spread, 0 a constant).")


def _matches(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    shares = _named(metrics, "match_distinct")
    if not shares:
        return None
    end = shares[0].tail()
    if end < FEW_MATCHES:
        return Verdict(
            "watch",
            f"Dense matches crowd: only {end:.0%} of the key locations are anybody's nearest neighbour, so "
            "the dense loss sees few places of an image.",
        )
    return Verdict("good", f"Dense matches spread over {end:.0%} of the key locations.")


def _queue_fill(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    fills = _named(metrics, "queue_filled")
    if not fills or not len(fills[0].finite) or not facts.queue_size:
        return None
    end = float(fills[0].finite[-1])
    if end < facts.queue_size:
        return Verdict(
            "watch",
            f"The queue holds {end:,.0f} real keys of {facts.queue_size:,}; the rest are random. Train "
            "longer or shorten the queue.",
        )
    return Verdict("good", f"The queue of {facts.queue_size:,} holds real keys only.")


def _queue_age(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    if not facts.queue_size or not facts.batch or facts.momentum is None or facts.momentum >= 1:
        return None
    age, memory = facts.queue_size / facts.batch, 1 / (1 - facts.momentum)
    numbers = (
        f"the oldest key is {age:.0f} steps old, the momentum encoder (m = {facts.momentum:g}) remembers "
        f"about {memory:.0f}"
    )
    if age > STALE_AGE * memory:
        return Verdict(
            "watch", f"Stale queue: {numbers}. Shorten the queue, enlarge the batch or raise the momentum."
        )
    return Verdict("good", f"Keys in the queue are fresh: {numbers}.")


def _queue_length(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    if not facts.queue_size or not facts.images or facts.queue_size <= facts.images:
        return None
    return Verdict(
        "watch",
        f"The queue ({facts.queue_size:,}) is longer than the data ({facts.images:,} images): an image meets "
        "its own older keys as negatives.",
    )


def _clusters(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    used = _named(metrics, "used_clusters")
    if not used or not len(used[0].finite):
        return None
    end = float(used[0].finite[-1])
    if end < USED_CLUSTERS:
        return Verdict(
            "bad" if end < 0.5 else "watch",
            f"Dead clusters: {1 - end:.0%} of the clusters have no member. Use fewer clusters, or "
            "restart them more often.",
        )
    return Verdict("good", f"Clusters are alive: {end:.0%} of them have members.")


def _learning_rate(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    series = metrics.get("lr")
    if series is None or not len(series.finite):
        return None
    values = series.finite
    peak, end = float(values.max()), float(values[-1])
    if peak <= 0:
        return Verdict("bad", "The learning rate was 0 throughout: nothing was trained. Set optimizer.lr.")
    numbers = f"peak {peak:.3g}, last {end:.3g}"
    done, planned = facts.iterations, facts.planned
    if done and planned and done < planned:
        return Verdict(
            "info",
            f"Learning rate: {numbers}; {done:,} of {planned:,} iterations are done, so it is not over.",
        )
    if end > DECAYED * peak:
        return Verdict(
            "watch",
            f"The learning rate did not come down ({numbers}). Features usually gain most while it falls: "
            "check lr_multiplier against train.max_iter.",
        )
    return Verdict("good", f"The learning rate followed its schedule to the end ({numbers}).")


def _gradient(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    series = metrics.get("grad_norm")
    if series is None or len(series.finite) < 10:  # too few for a median
        return None
    middle, end = float(np.median(series.finite)), series.tail()
    if end > GRADIENT_RISE * middle:
        return Verdict(
            "watch",
            f"The gradient grows: its norm ends at {end:.3g}, {end / middle:.0f} times its median. Lower the "
            "learning rate or clip the gradient.",
        )
    return Verdict("good", f"The gradient is steady: its norm ends at {end:.3g}, its median is {middle:.3g}.")


def _output_rank(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    ranks = _named(metrics, "effective_rank")
    if not ranks:
        return None
    end = ranks[0].tail()
    if end < ONE_DIRECTION:
        return Verdict(
            "bad",
            f"Collapse: the outputs of all images lie along one direction ({ranks[0].name} ends at "
            f"{end:.2f}; 1 is a line). Check the stopped gradient and lower the learning rate.",
        )
    return Verdict("good", f"Outputs use several directions ({ranks[0].name} ends at {end:.1f}).")


def _start(series: Series) -> float | None:
    """The value before the first step; None where it was not logged."""
    return float(series.values[0]) if len(series.values) and series.iterations[0] == 0 else None


def _trunk_rank(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    series = metrics.get("diagnostics/cell_rank")
    if series is None:
        return None
    end, start = series.tail(), _start(series)
    if end < ONE_DIRECTION:
        return Verdict("bad", f"Collapse: all cells have nearly the same features (cell_rank {end:.2f}).")
    if start is None:
        return None
    if end < LOST_RANK * start:
        return Verdict(
            "bad",
            f"The trunk loses directions: the effective rank of its cells fell from {start:.0f} at the start "
            f"to {end:.0f}. Learning rates that are far too high do this; lower it.",
        )
    return Verdict(
        "good", f"The trunk keeps its directions: cell_rank {start:.0f} at the start, now {end:.0f}."
    )


def _learned(metrics: Mapping[str, Series], facts: Facts) -> Verdict | None:
    names = [f"diagnostics/{name}" for name in ("retrieval_miou", "linear_miou", "correspondence")]
    found = [metrics[name] for name in names if name in metrics and len(metrics[name].finite) > 1]
    found = [series for series in found if _start(series) is not None]
    if not found:
        return None
    series = found[0]
    text = f"{series.name} was {_start(series):.1f} % at the start and is {series.tail():.1f} % now"
    if series.tail() <= _start(series):
        return Verdict("watch", f"Dense features are no better than at the start so far: {text}.")
    return Verdict("good", f"Dense features are better than at the start: {text}.")
