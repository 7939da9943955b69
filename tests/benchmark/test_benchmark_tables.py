"""Means, deviations and intervals by hand; nothing missing goes unnamed."""

import json
import math

import pytest
from benchmark_toy import MACHINE

from densessl.benchmark.cells import PRETRAIN, Cell
from densessl.benchmark.collect import Entry
from densessl.benchmark.plots import write_plots
from densessl.benchmark.records import Record
from densessl.benchmark.statistics import paired_difference, summarize
from densessl.benchmark.tables import Result, as_json, markdown, write

METRICS = ("bbox/AP", "segm/AP")


def entry(row, seed, *values, task="boxes", reason=""):
    cell = Cell(row, task, seed, "c.py", metrics=() if task == PRETRAIN else METRICS)
    results = dict(zip(METRICS, values))
    record = Record(["python", "x"], 1, 90.0 + seed, 0, [], {}, MACHINE, "2026-01-02")
    return Entry(cell, "started" if reason else "finished", results, reason, record)


def result(entries, **options):
    facts = dict(
        title="T", command="python tool", date="2026-01-03", seeds=(0, 1, 2), titles={"boxes": "Boxes"}
    )
    return Result(**facts, entries=entries, **options)


COMPLETE = [
    *(entry("scratch", seed, *values) for seed, values in enumerate([(10, 1), (12, 2), (17, 3)])),
    *(entry("dense", seed, *values) for seed, values in enumerate([(11, 1), (14, 2), (20, 3)])),
]


def test_summary_by_hand():
    assert summarize([10.0, 12.0, 17.0]).mean == 13.0
    # squares of -3, -1, 4 sum to 26; 26 / 2 = 13
    assert summarize([10.0, 12.0, 17.0]).deviation == pytest.approx(math.sqrt(13), rel=1e-12)
    assert summarize([5.0]) == summarize([5.0]).__class__(1, 5.0, None)
    assert summarize([]).n == 0
    assert math.isnan(summarize([]).mean)


def test_paired_difference_by_hand():
    difference = paired_difference({0: 11.0, 1: 14.0, 2: 20.0, 5: 99.0}, {0: 10.0, 1: 12.0, 2: 17.0, 3: 0.0})
    assert difference.seeds == (0, 1, 2)
    assert (difference.mean, difference.deviation) == (2.0, 1.0)  # of 1, 2, 3
    # t(0.975, 2) = 4.302652730 (tables); half = t / sqrt(3)
    assert difference.interval == pytest.approx(
        (2 - 4.302652730 / 3**0.5, 2 + 4.302652730 / 3**0.5), rel=1e-8
    )
    assert paired_difference({0: 1.0}, {0: 3.0}).interval is None
    assert paired_difference({0: 1.0}, {1: 3.0}).seeds == ()


def test_interval_covers_the_true_mean_in_95_of_100_cases():
    import numpy as np

    rng = np.random.default_rng(0)
    draws = rng.normal(1.5, 2.0, (4000, 3))
    intervals = [
        paired_difference(dict(enumerate(d)), dict.fromkeys(range(3), 0.0)).interval for d in draws.tolist()
    ]
    covered = sum(low <= 1.5 <= high for low, high in intervals) / len(intervals)
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_complete_table():
    page = markdown(result(COMPLETE, baseline="scratch"))
    assert "| scratch | 13.0 ± 3.6 | 2.0 ± 1.0 |" in page
    assert "| dense | 15.0 ± 4.6 | 2.0 ± 1.0 |" in page
    assert "| dense - scratch | +2.0 ± 1.0 [-0.5, +4.5] | +0.0 ± 0.0 [+0.0, +0.0] |" in page
    assert "| dense | 2 | 20.00 | 3.00 |" in page
    assert "|  | seed | box AP | mask AP |" in page
    assert "a CPU, 1 GiB; no GPU used; Python 3, densessl 0, torch 2, detectron2 0." in page
    assert "Run 2026-01-02." in page
    assert "| dense | 1 min 31 s |" in page
    assert "Incomplete" not in page
    assert "Without results" not in page


def test_missing_cells_are_named_and_not_averaged_over():
    entries = [e for e in COMPLETE if e.cell.name != "dense/seed1/boxes"]
    entries.insert(4, entry("dense", 1, reason="failed with status 5 after 3 s: NonFiniteError: loss | nan"))
    page = markdown(result(entries, baseline="scratch"))
    assert "**Incomplete: 1 of 6 runs lack results**" in page
    assert "| dense | 15.5 ± 6.4 (2 of 3 seeds) |" in page
    assert "| dense - scratch | +2.0 ± 1.4 [-10.7, +14.7] (2 of 3 seeds) |" in page
    assert (
        "| dense | 1 | none: failed with status 5 after 3 s | none: failed with status 5 after 3 s |" in page
    )
    assert "- dense/seed1/boxes: failed with status 5 after 3 s: NonFiniteError: loss | nan" in page


def test_a_value_that_a_finished_cell_does_not_have_is_named():
    entries = [*COMPLETE[:3], entry("dense", 0, 11, None), entry("dense", 1, 14), entry("dense", 2, 20, 3)]
    page = markdown(result(entries))
    assert "- dense/seed0/boxes: finished without segm/AP (n/a)" in page
    assert "- dense/seed1/boxes: finished without segm/AP (not measured)" in page
    assert "| dense | 15.0 ± 4.6 | 3.0 (1 of 3 seeds) |" in page


def test_nothing_finished():
    entries = [entry(row, seed, reason="not run") for row in ("scratch", "dense") for seed in range(3)]
    page = markdown(result(entries, baseline="scratch"))
    assert "| dense | none | none |" in page
    assert "| dense - scratch | none | none |" in page
    assert "No run has finished." in page
    assert "nan" not in page


def test_several_machines_and_stray_runs_are_said():
    other = entry("dense", 2, 20, 3)
    other.record.machine = {**MACHINE, "device": "a GPU (CUDA 13)"}
    page = markdown(result([*COMPLETE[:5], other], strangers=["old/seed0/boxes"]))
    assert "Not all runs were made on the same machine" in page
    assert "a CPU, 1 GiB; a GPU (CUDA 13);" in page
    assert "not part of this table: old/seed0/boxes." in page


def test_json_has_the_same_numbers_and_no_nan(tmp_path):
    entries = [*COMPLETE[:4], entry("dense", 1, reason="not run"), entry("dense", 2, reason="not run")]
    entries.append(entry("dense", 0, task=PRETRAIN))
    paths = write(result(entries, baseline="scratch", facts={"k": 1}), tmp_path)
    content = json.loads(paths[1].read_text(), parse_constant=lambda name: pytest.fail(name))
    dense = content["tables"]["boxes"]["dense"]["bbox/AP"]
    assert (dense["values"], dense["n"], dense["mean"], dense["deviation"]) == ({"0": 11}, 1, 11, None)
    assert dense["difference"] == {"seeds": [0], "mean": 1, "deviation": None, "interval": None}
    scratch = content["tables"]["boxes"]["scratch"]["bbox/AP"]
    assert scratch["mean"] == 13
    assert "difference" not in scratch
    assert content["missing"] == ["dense/seed1/boxes: not run", "dense/seed2/boxes: not run"]
    assert content["cells"][-1]["name"] == "dense/seed0/pretrain"
    assert content["cells"][0]["record"]["command"] == ["python", "x"]
    assert content["facts"] == {"k": 1}
    assert as_json(result(COMPLETE))["baseline"] == ""


@pytest.mark.parametrize("baseline", ["", "scratch"])
def test_plots(tmp_path, baseline):
    from PIL import Image

    (path,) = write_plots(result(COMPLETE, baseline=baseline), tmp_path)
    with Image.open(path) as picture:
        assert path.name == "boxes.png"
        assert picture.width == 675 * (2 if baseline else 1)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert write_plots(result([entry("dense", 0, reason="not run")]), tmp_path) == []
