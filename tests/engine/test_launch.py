"""Arguments, error messages and exit statuses of the command-line tools."""

import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_toy import logged, wait_for

from densessl.engine import launch
from densessl.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "tools" / "lazyconfig_train_net.py")
CONFIG = str(Path(__file__).with_name("toy_config.py"))
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
    ENV.pop(name, None)


def tool(*args, env=ENV, timeout=240) -> subprocess.CompletedProcess:
    command = [sys.executable, TRAIN, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def parse(*args):
    return launch.default_argument_parser().parse_intermixed_args(["--config-file", CONFIG, *args])


def test_help_does_not_import_torch():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = tool("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # 0.15 s; processor time, which other work on the machine hardly changes
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert answer.returncode == 0
    assert "--eval-only" in answer.stdout
    code = "import sys, densessl.engine.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENV).returncode == 0


def test_options_and_overrides_in_any_order():
    args = parse("a.b=1", "--num-gpus", "2", "c=2", "--resume", "d=[1,2]")
    assert args.opts == ["a.b=1", "c=2", "d=[1,2]"]
    assert args.num_gpus == 2
    assert args.resume


def test_wrong_option_is_usage():
    answer = tool("--config-file", CONFIG, "--num-gpu", "2")  # no abbreviations
    assert answer.returncode == 2
    assert "--num-gpu" in answer.stderr


def test_error_is_one_message_without_traceback(tmp_path):
    answer = tool("--config-file", CONFIG, f"train.output_dir={tmp_path}", "optimizr.lr=0.1")
    assert answer.returncode == 2
    assert answer.stderr.count("ConfigError") == 1
    assert "optimizer" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_data_error_in_a_worker_is_said_in_its_own_words(tmp_path):
    overrides = ["dataloader.train.mapper._target_=engine_toy.BrokenMapper", "dataloader.train.num_workers=1"]
    answer = tool("--config-file", CONFIG, f"train.output_dir={tmp_path}", *overrides)
    assert answer.returncode == 3
    assert "DataError: " in answer.stderr
    assert "image_" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_worker_traceback_is_cut_off():
    text = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "a.py", line 1, in b\ndensessl.errors.DataError: x.jpg is empty\n'
    )
    assert launch.clean_message(DataError(text)) == "x.jpg is empty"
    assert launch.clean_message(DataError("plain")) == "plain"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-gpus", "0"], "--num-gpus 0 is below 1"),
        (["--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://a:1"], "must be below"),
        (["--num-machines", "2"], "--dist-url tcp://HOST:PORT"),
        (["--eval-only", "--resume"], "Give one of them"),
    ],
)
def test_impossible_arguments(args, message):
    with pytest.raises(ConfigError, match=message):
        launch.launch(print, parse(*args), "cpu")


def test_fewer_gpus_than_asked(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"2 processes .* 1 GPU"):
        launch.launch(print, parse("--num-gpus", "2"), "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU can be used"):
        launch.launch(print, parse(), "cuda")


def test_incomplete_torchrun_environment(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        launch.launch(print, parse(), "cpu")


def test_taken_port_is_said_at_once():
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        url = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ConfigError, match="another port"):
            launch.launch(print, parse("--num-gpus", "2", "--dist-url", url), "cpu")
    with pytest.raises(ConfigError, match="not of the form"):
        launch.launch(print, parse("--num-gpus", "2", "--dist-url", "localhost"), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_interrupt_once_saves_and_twice_leaves_at_once(tmp_path, times):
    go_on = tmp_path / "go_on"
    hold = f"train.hooks=[{{_target_: engine_toy.HoldStep, iteration: 7, file: {go_on}}}]"
    process = subprocess.Popen(
        [sys.executable, TRAIN, "--config-file", CONFIG, f"train.output_dir={tmp_path}", hold],
        env=ENV,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((tmp_path / "go_on.reached").exists, process)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: logged(tmp_path, "Got SIGINT"), process)
        process.send_signal(signal.SIGINT) if times == 2 else go_on.touch()
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert len(list(tmp_path.glob("model_*.pth"))) == (2 if times == 1 else 1)
    assert ("continue with --resume" in errors) == (times == 1)


def _fail_in_a_group(folder: Path) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)

    def fail() -> None:
        raise DataError("broken on purpose")

    try:
        launch.run_main(fail)
    finally:
        (folder / "ended_slowly").touch()


def test_a_rank_that_fails_ends_at_once(tmp_path):
    """The interpreter's own ending may abort on the threads of an open process group: status 134 for 3."""
    process = multiprocessing.get_context("fork").Process(target=_fail_in_a_group, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 3
    assert (tmp_path / "rendezvous").exists()
    assert not (tmp_path / "ended_slowly").exists()
