"""Mean, deviation and paired differences of the results of several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Attributes:
    n: number of values.
    mean: NaN without values.
    deviation: sample standard deviation (n - 1 in the denominator); None below two values.
    """

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """Attributes:
    seeds: that both sides have a value for, in order.
    mean: of (value - baseline) over these seeds; NaN without any.
    deviation: of the differences; None below two seeds.
    interval: (low, high), 95 % two-sided Student interval of the mean difference; None below two seeds.
    """

    seeds: tuple[int, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def summarize(values: Sequence[float]) -> Summary:
    """Mean and deviation.

    >>> summarize([1.0, 2.0, 6.0])
    Summary(n=3, mean=3.0, deviation=2.6457513110645907)
    """
    mean = statistics.fmean(values) if values else math.nan
    return Summary(len(values), mean, statistics.stdev(values) if len(values) > 1 else None)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference:
    """Differences over the seeds that both have.

    Runs of one seed share the order of the training pictures and the initial heads, so the difference
    varies less than the values. With d the differences and n of them, the interval is
    mean(d) +- t(0.975, n - 1) sd(d) / sqrt(n) (Student, "The probable error of a mean", 1908). It takes the
    differences as independent and normal; with three seeds t is 4.30, so only large effects exclude 0.

    Args:
        values, baseline: seed -> result.
    """
    from scipy.stats import t

    seeds = tuple(sorted(values.keys() & baseline.keys()))
    differences = [values[seed] - baseline[seed] for seed in seeds]
    summary = summarize(differences)
    interval = None
    if summary.deviation is not None:
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, summary.n - 1))
        half = quantile * summary.deviation / math.sqrt(summary.n)
        interval = (summary.mean - half, summary.mean + half)
    return Difference(seeds, summary.mean, summary.deviation, interval)
