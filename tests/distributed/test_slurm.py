"""The Slurm job through submitit's local executor: requeued after SIGUSR2, it ends where it would have."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from engine_toy import assert_same, logged, wait_for

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.slurm import TrainJob, submit
from densessl.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "engine"
CONFIG = str(TOY / "toy_config.py")


def arguments(output_dir: Path, *overrides: str, tasks: int = 1) -> Namespace:
    return Namespace(
        config_file=CONFIG,
        opts=[f"train.output_dir={output_dir}", *overrides],
        resume=False,
        eval_only=False,
        nodes=1,
        gpus_per_node=tasks,
        cpus_per_gpu=1,
        timeout=10,
        signal_delay=30,
        max_requeues=3,
        partition=None,
        account=None,
        qos=None,
        constraint=None,
        name="test",
        folder=None,
        cluster="local",
    )


@pytest.mark.slow
def test_requeued_job_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{TOY}{os.pathsep}{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    go_on = tmp_path / "go_on"
    hold = f"train.hooks=[{{_target_: engine_toy.HoldStep, iteration: 7, file: {go_on}}}]"
    job = submit(arguments(tmp_path / "job", "model.norm=none", "model.dropout=0.0", hold, tasks=2))
    try:
        wait_for((tmp_path / "go_on.reached").exists)
        # the main process has the lock; it alone is told, the other follows
        os.kill(json.loads((tmp_path / "job" / ".densessl.lock").read_text())["pid"], signal.SIGUSR2)
        wait_for(lambda: logged(tmp_path / "job", "Got SIGUSR2"))
    finally:
        go_on.touch()
    job.wait()
    job.results()
    log = (tmp_path / "job" / "log.txt").read_text()
    assert "Resumed from" in log
    cfg = load_config(CONFIG, [f"train.output_dir={tmp_path}/one", "model.norm=none", "model.dropout=0.0"])
    defaults.run(cfg, Namespace(resume=False, eval_only=False))
    models = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"] for name in ("job", "one")
    ]
    assert_same(*models, atol=1e-6)


def test_requeued_job_resumes_once():
    job = TrainJob(["--config-file", "c.py", "a=1"]).checkpoint().function
    assert job.argv == ["--config-file", "c.py", "a=1", "--resume"]
    assert job.checkpoint().function.argv == job.argv


def test_config_is_checked_before_queueing(tmp_path):
    with pytest.raises(ConfigError, match="3 process"):
        submit(arguments(tmp_path, tasks=3))
    with pytest.raises(ConfigError, match="max_iter"):
        submit(arguments(tmp_path, "train.max_iter=0"))
    with pytest.raises(ConfigError, match="--gpus-per-node 0"):
        submit(arguments(tmp_path, tasks=0))
    assert not list(tmp_path.iterdir())
    (tmp_path / "model_0000005.pth").touch()
    with pytest.raises(ConfigError, match="holds a run's checkpoints.*--resume"):
        submit(arguments(tmp_path))


def test_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="srun.*submits Slurm jobs"):
        submit(Namespace(**{**vars(arguments(tmp_path / "run")), "cluster": "slurm"}))


def test_slurm_script_asks_for_what_was_given(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", 'cp "$1" "$SCRIPT"; echo "Submitted batch job 7"'), ("srun", "true")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
        "SCRIPT": str(tmp_path / "script"),
        "PYTHONPATH": f"{TOY}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, str(ROOT / "tools" / "submit_slurm.py"), "--config-file", CONFIG]
    options = ["--nodes", "2", "--gpus-per-node", "4", "--timeout", "60", "--partition", "gpu"]
    overrides = [f"train.output_dir={tmp_path}/out", "train.device=auto"]
    answer = subprocess.run(
        [*command, *options, *overrides], env=environment, capture_output=True, text=True, timeout=240
    )
    assert answer.returncode == 0, answer.stderr
    assert "job 7" in answer.stdout
    script = (tmp_path / "script").read_text()
    for line in (
        "nodes=2",
        "gpus-per-node=4",
        "ntasks-per-node=4",
        "time=60",
        "partition=gpu",
        "signal=USR2@300",
    ):
        assert f"#SBATCH --{line}\n" in script, line
    assert "--kill-on-bad-exit=1" in script
