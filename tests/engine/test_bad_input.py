"""Mistakes and full disks: one message each, from the place that knows."""

import errno
import logging
import os
import shutil
import threading
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import EventWriter
from omegaconf import OmegaConf

from densessl.config import load_config
from densessl.engine import defaults, launch
from densessl.engine.checks import check_datasets
from densessl.engine.events import WriterHook
from densessl.engine.log_file import guard_log_files
from densessl.errors import CheckpointError, ConfigError, DataError, LostProcessError

CONFIG = str(Path(__file__).with_name("toy_config.py"))


def run(output_dir: Path, *overrides: str, hooks=(), resume: bool = False) -> dict:
    cfg = load_config(CONFIG, [f"train.output_dir={output_dir}", *overrides])
    if hooks:
        cfg.train.hooks = list(hooks)
    return defaults.run(cfg, Namespace(resume=resume, eval_only=False))


class MoveAway(HookBase):
    """Takes the run directory away in the middle of a run."""

    def __init__(self, directory: Path, iteration: int):
        self.directory, self.iteration = directory, iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            shutil.move(self.directory, self.directory.with_name("moved"))


@pytest.mark.parametrize("iteration", [1, 5])  # before and after TensorBoard has opened its file
def test_a_vanished_run_directory_stops_the_run(tmp_path, iteration):
    with pytest.raises(CheckpointError, match=r"Cannot write .*run.*No such file"):
        run(tmp_path / "run", hooks=[MoveAway(tmp_path / "run", iteration)])
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "moved" / "config.yaml").exists()


class FullDisk(EventWriter):
    def __init__(self):
        self.full = True

    def write(self):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writer_hook(directory: Path, iteration: int) -> WriterHook:
    hook = WriterHook([FullDisk()], 1, str(directory))
    hook.trainer = Namespace(iter=iteration, max_iter=8)
    return hook


def test_a_full_disk_is_said_once_by_the_metrics(tmp_path, caplog):
    hook = writer_hook(tmp_path, 3)
    with pytest.raises(CheckpointError, match="No space left on device .* bytes are free there.*--resume"):
        hook.after_step()
    hook.after_train()  # nothing more
    with caplog.at_level(logging.WARNING):
        writer_hook(tmp_path, 3).after_train()  # another error is on its way and must be seen
    assert "last metrics were not written" in caplog.text
    with pytest.raises(CheckpointError, match="No space left"):
        writer_hook(tmp_path, 8).after_train()


class _AsyncWriterThread(threading.Thread):
    """The name of TensorBoard's class."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def run(self):
        raise self.error


def test_tensorboards_thread_prints_no_traceback(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    original = threading.excepthook
    hook = writer_hook(tmp_path, 8)
    hook._writers[0].full = False
    hook.before_train()
    for error in (OSError("full"), ValueError("a fault")):
        thread = _AsyncWriterThread(error)
        thread.start()
        thread.join()
    assert [failure.exc_type for failure in seen] == [ValueError]
    hook.after_train()
    assert threading.excepthook is original


def test_log_file_that_cannot_be_written_is_left_with_one_line(tmp_path, capsys):
    class Stream:
        name, closed, lines = "log.txt", False, 0

        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self):
            pass

        def close(self):
            self.closed = True

    stream, names = Stream(), ("densessl-test-a", "densessl-test-b")
    for name in names:
        logging.getLogger(name).addHandler(logging.StreamHandler(stream))
    guard_log_files(names)
    for name in names * 2:
        logging.getLogger(name).error("a record")
    assert capsys.readouterr().err == "log.txt cannot be written any more: No space left on device.\n"
    assert stream.closed
    assert not any(logging.getLogger(name).handlers for name in names)


def test_a_finished_run_says_what_is_there(tmp_path):
    run(tmp_path)
    assert run(tmp_path, resume=True) == {}
    log = (tmp_path / "log.txt").read_text()
    assert f"{tmp_path} holds model_final.pth, metrics.json, evaluation.json, config.yaml." in log
    assert "--eval-only evaluates" in log


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.schedules=[lr]", r"train\.schedules\[0\] is 'lr'.*builds a Schedule"),
        ("train.hooks=[3]", r"train\.hooks\[0\] is 3.*builds a HookBase"),
        ("train.seed=4294967296", r"train\.seed=4294967296: it must be below"),
        ("dataloader.train.num_workers=-1", r"num_workers=-1: 0 loads in the main process"),
        ("train.clip_grad.norm=much", r"train\.clip_grad\.norm=much: it must be a positive number"),
        ("optimizer.momentum=-2.0", r"optimizer: Invalid momentum value: -2\.0"),
    ],
)
def test_wrong_values(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, override)


@pytest.mark.parametrize(
    "error", [ValueError("Expecting ',' delimiter"), KeyError("images"), AssertionError()]
)
def test_damaged_annotations_of_the_test_set_are_found_before_training(monkeypatch, error):
    def load():
        raise error

    monkeypatch.setitem(DatasetCatalog.data, "damaged_val", load)
    cfg = OmegaConf.create({"dataloader": {"test": {"dataset": {"names": "damaged_val"}}}})
    with pytest.raises(DataError, match="'damaged_val'.*cannot be read.*copy it again"):
        check_datasets(cfg, ("test",))
    cfg.dataloader.train = cfg.dataloader.pop("test")
    check_datasets(cfg, ("train",))  # not loaded twice; whoever loads it gets the same message
    with pytest.raises(DataError, match="'damaged_val'"):
        DatasetCatalog.get("damaged_val")


def test_processes_of_a_machine_say_the_same_error_once(tmp_path, capsys, monkeypatch):
    def fail(error, whole_job=True):
        def main():
            raise error

        with pytest.raises(SystemExit) as stopped:
            launch.run_main(main, tmp_path, whole_job=whole_job)
        return stopped.value.code

    assert fail(LostProcessError("lost"), whole_job=False) == 1
    assert [fail(DataError("gone")) for _ in range(3)] == [3, 3, 3]
    monkeypatch.setenv("RANK", "1")
    assert fail(ConfigError("other")) == 2
    assert fail(LostProcessError("lost")) == 1  # the other process or the launcher says why
    lines = ["LostProcessError: lost", "DataError: gone", "[rank 1] ConfigError: other"]
    assert capsys.readouterr().err.splitlines() == lines


def test_lost_connection():
    text = "[third_party/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:27283"
    assert launch.is_lost_connection(RuntimeError(text))
    assert not launch.is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_only_known_warnings_are_silenced(recwarn, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        launch.quiet_known_warnings()
        for module in ("torch.functional", "my.module"):
            text = "torch.meshgrid: in an upcoming release, it will be required"
            warnings.warn_explicit(text, UserWarning, "file.py", len(module), module=module)
        warnings.warn_explicit(
            "`torch.jit.script` is deprecated", FutureWarning, "f.py", 1, module="torch.jit"
        )
    assert len(recwarn) == 1
    logger = logging.getLogger("torch.fx._symbolic_trace")
    logger.warning("is_fx_tracing will return true for both")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
