"""Two gloo processes through the command line: equal to one, stopped together, resumed exactly."""

import json
import os
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import ranks
import torch
from engine_toy import assert_same, logged, make_trainer, wait_for

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.replay import replay

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "engine"
CONFIG = str(TOY / "toy_config.py")
TRAIN = [str(ROOT / "tools" / "lazyconfig_train_net.py"), "--config-file", CONFIG]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TOY}{os.pathsep}{ROOT}"}
BAD = 17
COMPARE = "train.hooks=[{_target_: engine_toy.CompareRanks}]"
# dropout and batch norm see each rank's images alone
SAME_AS_ONE = ["model.norm=none", "model.dropout=0.0"]


def two(output_dir: Path, *options: str, timeout: float = 240) -> subprocess.CompletedProcess:
    """Runs the trainer with two processes through detectron2's launcher."""
    command = [sys.executable, *TRAIN, "--num-gpus", "2", f"train.output_dir={output_dir}", *options]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=timeout)


def here(output_dir: Path, *overrides: str, eval_only: bool = False) -> None:
    """Runs in this process, or in those of `ranks.run`."""
    cfg = load_config(CONFIG, [f"train.output_dir={output_dir}", *overrides])
    defaults.run(cfg, Namespace(resume=False, eval_only=eval_only))


def checkpoint(output_dir: Path, name: str = "model_final.pth") -> dict:
    return torch.load(output_dir / name, weights_only=True)


def test_two_processes_equal_one_and_each_other(tmp_path):
    ranks.run(here, tmp_path / "two", *SAME_AS_ONE, "train.accumulate=2", COMPARE)
    here(tmp_path / "one", *SAME_AS_ONE)
    assert_same(checkpoint(tmp_path / "two")["model"], checkpoint(tmp_path / "one")["model"], atol=1e-6)
    losses = [
        checkpoint(tmp_path / name)["trainer"]["storage"]["total_loss"]["values"] for name in ("one", "two")
    ]
    torch.testing.assert_close(*(torch.tensor(values) for values in losses), rtol=0, atol=1e-6)


def test_sync_bn_on_cpu_is_batch_norm_of_the_whole_batch(tmp_path):
    options = ["model.norm=SyncBN", "model.dropout=0.0"]
    ranks.run(here, tmp_path / "two", *options)
    assert logged(tmp_path / "two", "1 SyncBN layers run as naiveSyncBN")
    here(tmp_path / "one", *options)
    models = [checkpoint(tmp_path / name)["model"] for name in ("two", "one")]
    for model in models:
        # naiveSyncBN takes the biased variance and does not count batches
        model.pop("backbone.1.running_var")
        model.pop("backbone.1.num_batches_tracked")
    assert_same(*models, atol=1e-5)


def bad_rank() -> tuple[int, int]:
    """(step, rank) that meets the bad image; rank 0 takes the first half of each batch."""
    for step, batch in enumerate(make_trainer("unused").data_loader):
        if BAD in batch["image_id"]:
            return step, batch["image_id"].index(BAD) // 4
    raise AssertionError


def test_nan_on_one_rank_stops_both_before_the_update(tmp_path):
    step, rank = bad_rank()
    bad = f"model.bad_image_id={BAD}"
    answer = two(tmp_path / "bad", bad, "model.dropout=0.3", "train.checkpointer.period=1")
    assert answer.returncode == 5, answer.stderr
    assert answer.stderr.count("NonFiniteError") >= 1
    assert "Traceback" not in answer.stderr
    newest = (tmp_path / "bad" / "last_checkpoint").read_text()
    assert newest == f"model_{step:07d}.pth"  # nothing was saved after the bad step
    path = tmp_path / "bad" / f"non_finite_{step:07d}.pth"
    capture = torch.load(path, weights_only=True)
    bad_parts = [torch.tensor(part["losses"][0]["loss_toy"]).isnan().item() for part in capture["ranks"]]
    assert bad_parts == [rank == 0, rank == 1]
    saved = checkpoint(tmp_path / "bad", newest)["model"]
    for name, value in capture["model"].items():
        if not name.startswith("backbone.1."):  # running statistics have seen the forward pass
            torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    result = replay(load_config(CONFIG, [bad, "model.dropout=0.3"]), str(path))
    assert result.reproduced
    assert result.rank == rank
    command = [
        sys.executable,
        str(ROOT / "tools" / "replay_non_finite.py"),
        "--config-file",
        CONFIG,
        str(path),
    ]
    tool = subprocess.run([*command, bad], env=ENV, capture_output=True, text=True, timeout=240)
    assert tool.returncode == 0, tool.stderr
    assert f"image_{BAD:03d}.png" in tool.stdout
    other = replay(load_config(CONFIG, [bad, "model.dropout=0.3"]), str(path), rank=1 - rank)
    assert not other.reproduced  # that rank's own part was finite


@pytest.mark.parametrize(("kind", "status"), [("DataError", 3), ("RuntimeError", 1)])
def test_error_on_one_rank_ends_all(tmp_path, kind, status):
    hook = f"train.hooks=[{{_target_: engine_toy.FailOnRank, rank: 1, iteration: 3, kind: {kind}}}]"
    answer = two(tmp_path, hook)  # in its time: a rank that waits for a lost one does so for half an hour
    assert answer.returncode == status, answer.stderr
    assert "broken on purpose" in answer.stderr
    if kind == "DataError":
        assert answer.stderr.splitlines() == ["[rank 1] DataError: broken on purpose"]
        assert "Traceback" not in answer.stdout
    assert not (tmp_path / "model_0000006.pth").exists()


def test_killed_process_is_named(tmp_path):
    answer = two(tmp_path, "train.hooks=[{_target_: engine_toy.SignalOneRank, iteration: 3, signum: 9}]")
    assert answer.returncode == 137
    assert len(answer.stderr.splitlines()) == 1
    assert "local rank 1 was killed by SIGKILL" in answer.stderr
    assert "Traceback" not in answer.stdout


def test_error_of_all_ranks_is_said_once(tmp_path):
    answer = two(tmp_path, "dataloader.train.total_batch_size=7")
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "ConfigError: dataloader.train.total_batch_size=7" in answer.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Directory of an uninterrupted run of the toy config on two processes."""
    output_dir = tmp_path_factory.mktemp("whole")
    answer = two(output_dir)
    assert answer.returncode == 0, answer.stderr
    return output_dir


def test_signal_on_one_rank_stops_both_and_resume_is_exact(tmp_path, whole):
    hook = "train.hooks=[{_target_: engine_toy.SignalOneRank, iteration: 7}]"
    answer = two(tmp_path / "parts", hook)
    assert answer.returncode == 143, answer.stderr
    assert "after iteration 8" in answer.stderr  # one step later: the ranks agree during the next step
    assert two(tmp_path / "parts", "--resume").returncode == 0
    parts, expected = checkpoint(tmp_path / "parts"), checkpoint(whole)
    assert_same(parts["model"], expected["model"])
    for mine, other in zip(parts["rng"], expected["rng"]):
        assert torch.equal(mine["torch"], other["torch"])


def test_sigterm_to_the_launcher_saves(tmp_path):
    go_on = tmp_path / "go_on"
    hold = f"train.hooks=[{{_target_: engine_toy.HoldStep, iteration: 7, file: {go_on}}}]"
    process = subprocess.Popen(
        [sys.executable, *TRAIN, "--num-gpus", "2", f"train.output_dir={tmp_path}", hold],
        env=ENV,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((tmp_path / "go_on.reached").exists, process)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: logged(tmp_path, "Got SIGTERM"), process)
        go_on.touch()
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "continue with --resume" in errors
    newest = checkpoint(tmp_path, (tmp_path / "last_checkpoint").read_text())
    assert newest["iteration"] == 9  # one step later: the ranks agree during the next step


def test_evaluation_only(tmp_path, whole):
    ranks.run(evaluate, tmp_path, f"train.init_checkpoint={whole}/model_final.pth")
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"] == {"toy": {"images": 2.0}}


def evaluate(output_dir: Path, *overrides: str) -> None:
    here(output_dir, *overrides, eval_only=True)


def test_two_machines_equal_one(tmp_path, whole):
    """Two launchers, as on two machines, on this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    machines = [
        subprocess.Popen(
            [sys.executable, *TRAIN, "--num-machines", "2", "--machine-rank", str(rank), "--dist-url", url]
            + [f"train.output_dir={tmp_path}"],
            env=ENV,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [machine.communicate(timeout=150)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    assert_same(checkpoint(tmp_path)["model"], checkpoint(whole)["model"])


def test_torchrun_equals_the_launcher(tmp_path, whole):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, *TRAIN, f"train.output_dir={tmp_path}/torchrun"]
    answer = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    assert_same(checkpoint(tmp_path / "torchrun")["model"], checkpoint(whole)["model"])
    failed = subprocess.run(
        [*command, "train.max_iter=0"], env=ENV, capture_output=True, text=True, timeout=240
    )
    assert failed.returncode != 0
    assert "exitcode  : 2" in failed.stderr
    assert "train.max_iter=0" in failed.stderr
