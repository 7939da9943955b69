"""Cells are run once, resumed, refused when they differ, and named when they fail."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from benchmark_toy import MACHINE

from densessl.benchmark.cells import Cell
from densessl.benchmark.collect import collect, strangers
from densessl.benchmark.records import FINISHED, NEW, STARTED, read_record
from densessl.benchmark.runner import BenchmarkInterrupted, run_cells
from densessl.errors import ConfigError, DataError


def run(bench, cells):
    lines = []
    run_cells(cells, bench.output, bench.trainer, MACHINE, lines.append)
    return lines


def states(bench, cells):
    return {entry.cell.name: entry.state for entry in collect(cells, bench.output)}


def test_cells_run_in_order_and_only_once(bench):
    cells = bench.cells(seeds=1)
    run(bench, cells)
    weights = bench.output / "cells/dense/seed0/pretrain/model_final.pth"
    assert bench.calls() == [
        'train scratch/seed0/boxes ""',
        'train dense/seed0/pretrain ""',
        f"train dense/seed0/boxes {weights}",
    ]
    scratch, pretrain, dense = collect(cells, bench.output)
    assert [entry.state for entry in (scratch, pretrain, dense)] == [FINISHED] * 3
    assert (scratch.results, pretrain.results) == ({"bbox/AP": 10.0}, {})
    record = dense.record
    assert (record.attempts, record.exit_status, record.machine) == (1, 0, MACHINE)
    assert record.weights["path"] == str(weights)
    assert record.command[-1] == f"train.output_dir={bench.output}/cells/dense/seed0/boxes"
    assert run(bench, cells)[0] == "[1/3] scratch/seed0/boxes: finished before"
    assert bench.calls() == []


def test_more_seeds_keep_what_is_there(bench):
    run(bench, bench.cells(seeds=1))
    bench.calls()
    run(bench, bench.cells(seeds=2))
    assert [call.split()[1] for call in bench.calls()] == [
        "scratch/seed1/boxes",
        "dense/seed1/pretrain",
        "dense/seed1/boxes",
    ]
    assert strangers(bench.cells(seeds=1), bench.output) == [
        "dense/seed1/boxes",
        "dense/seed1/pretrain",
        "scratch/seed1/boxes",
    ]


def test_a_failed_cell_is_named_and_the_others_go_on(bench):
    cells = bench.cells()
    bench.behave({"dense/seed0/pretrain": "fail"})
    lines = run(bench, cells)
    assert "[3/6] dense/seed0/boxes: left out, since dense/seed0/pretrain has not finished" in lines
    found = {entry.cell.name: entry for entry in collect(cells, bench.output)}
    failed = found["dense/seed0/pretrain"]
    assert failed.state == STARTED
    assert failed.reason.startswith("failed with status 5 after ")
    assert failed.reason.endswith("NonFiniteError: loss_cls is nan")  # no colour codes
    assert failed.record.tail == ["step 3", "NonFiniteError: loss_cls is nan"]
    assert found["dense/seed0/boxes"].state == NEW
    assert found["dense/seed0/boxes"].reason == "its pretraining dense/seed0/pretrain has not finished"
    assert [n for n, e in found.items() if e.state == FINISHED] == [
        *("scratch/seed0/boxes", "scratch/seed1/boxes"),
        *("dense/seed1/pretrain", "dense/seed1/boxes"),
    ]
    bench.calls()
    bench.behave({})
    run(bench, cells)  # the failed one is tried again, then what needs it
    assert [call.split()[1] for call in bench.calls()] == ["dense/seed0/pretrain", "dense/seed0/boxes"]
    record = read_record(failed.cell.directory(bench.output))
    assert (record.attempts, record.exit_status, record.tail) == (2, 0, [])


@pytest.mark.parametrize("override", ["optimizer.lr=0.2", "train.max_iter=20", "model.bias=False"])
def test_another_config_is_refused_before_anything_runs(bench, override):
    run(bench, bench.cells(seeds=1))
    bench.calls()
    key = override.split("=")[0]
    with pytest.raises(ConfigError, match=rf"scratch/seed0/boxes: .*{key}: .* in the plan.*--output"):
        run(bench, bench.cells(seeds=2, overrides=(override,)))
    assert bench.calls() == []


def test_what_does_not_change_results_may_differ(bench):
    run(bench, bench.cells(seeds=1))
    free = ("train.log_period=5", "dataloader.train.num_workers=2")
    assert set(states(bench, bench.cells(1, free)).values()) == {FINISHED}


def test_other_initial_weights_are_refused(bench):
    cells = bench.cells(seeds=1)
    run(bench, cells)
    (bench.output / "cells/dense/seed0/pretrain/model_final.pth").write_bytes(b"trained again")
    with pytest.raises(ConfigError, match=r"dense/seed0/boxes: .*initial weights: sha256 \w{12} there"):
        states(bench, cells)


def test_a_moved_checkpoint_is_the_same_and_another_is_not(bench, tmp_path):
    (cell, *_) = bench.cells(seeds=1)
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    first.write_bytes(b"weights")
    given = Cell("a", "boxes", 0, cell.config, start=str(first), metrics=("bbox/AP",))
    (bench.folder / "a-seed0-boxes.yaml").write_bytes(
        (bench.folder / "scratch-seed0-boxes.yaml").read_bytes()
    )
    run(bench, [given])
    first.rename(second)
    moved = Cell("a", "boxes", 0, cell.config, start=str(second), metrics=("bbox/AP",))
    assert states(bench, [moved]) == {"a/seed0/boxes": FINISHED}
    second.write_bytes(b"others")
    with pytest.raises(ConfigError, match="initial weights"):
        states(bench, [moved])


def test_training_without_its_evaluation_is_evaluated(bench):
    cells = bench.cells(seeds=1)[:1]
    bench.behave({"scratch/seed0/boxes": "no evaluation"})
    run(bench, cells)
    assert collect(cells, bench.output)[0].reason == "the process ended well, but the run is only trained"
    bench.behave({"scratch/seed0/boxes": {"bbox": {"AP": 3.5, "AP-plate": None}, "speed": 2.0}})
    bench.calls()
    run(bench, cells)
    final = bench.output / "cells/scratch/seed0/boxes/model_final.pth"
    assert bench.calls() == [f"evaluate scratch/seed0/boxes {final}"]
    (entry,) = collect(cells, bench.output)
    assert (entry.state, entry.results) == (FINISHED, {"bbox/AP": 3.5, "bbox/AP-plate": None, "speed": 2.0})
    run(bench, cells)
    assert bench.calls() == []


def test_an_evaluation_of_an_earlier_step_does_not_count(bench):
    cells = bench.cells(seeds=1)[:1]
    run(bench, cells)
    path = bench.output / "cells/scratch/seed0/boxes/evaluation.json"
    path.write_text(json.dumps({"iteration": 5, "results": {"bbox": {"AP": 99.0}}}))
    assert states(bench, cells) == {"scratch/seed0/boxes": "trained"}


@pytest.mark.parametrize("name", ["cell.json", "evaluation.json"])
def test_damaged_files_are_named(bench, name):
    cells = bench.cells(seeds=1)[:1]
    run(bench, cells)
    (bench.output / "cells/scratch/seed0/boxes" / name).write_text('{"iteration": ')
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        collect(cells, bench.output)


def _run_in_child(bench, cells):
    """Runs the plan in a forked process that leaves with the status of the error."""
    try:
        run_cells(cells, bench.output, bench.trainer, MACHINE)
    except BenchmarkInterrupted as error:
        os._exit(error.exit_code)
    os._exit(0)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_running_cell_and_the_suite_resumes(bench, signum, status):
    cells = bench.cells()
    bench.behave({"dense/seed0/pretrain": "wait"})
    process = multiprocessing.get_context("fork").Process(target=_run_in_child, args=(bench, cells))
    process.start()
    deadline = time.monotonic() + 30
    while not (bench.folder / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signum)
    process.join(30)
    assert process.exitcode == status
    assert [call.split()[1] for call in bench.calls()] == ["scratch/seed0/boxes", "dense/seed0/pretrain"]
    reasons = {entry.cell.name: entry.reason for entry in collect(cells, bench.output)}
    assert reasons["dense/seed0/pretrain"] == "interrupted (status 143)"
    assert reasons["scratch/seed1/boxes"] == "not run"
    lines = run(bench, cells)
    assert lines[0].endswith("finished before")
    assert "dense/seed0/pretrain: resuming" in lines[1]
    assert len(bench.calls()) == 5
    assert set(states(bench, cells).values()) == {FINISHED}


def test_two_signals_kill_the_cell(bench, tmp_path):
    """A trainer that hangs does not keep the benchmark."""
    script = tmp_path / "deaf.py"
    script.write_text(
        "import signal, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(bench.folder / 'waiting')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    bench.trainer = type(bench.trainer)(str(script))
    cells = bench.cells(seeds=1)
    process = multiprocessing.get_context("fork").Process(target=_run_in_child, args=(bench, cells))
    process.start()
    while not (bench.folder / "waiting").exists():
        assert process.is_alive()
        time.sleep(0.05)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.3)
    process.join(20)
    assert process.exitcode == 143
    record = read_record(Path(cells[0].directory(bench.output)))
    assert record.exit_status == 128 + signal.SIGKILL
