"""The output directory: one process, writable, not another run's."""

import os
import subprocess
import sys
import time

import pytest
from checkpoint_process import Run

from densessl.engine.run_directory import LOCK, RunDirectory, check_writable
from densessl.errors import ConfigError

SCRIPT = os.path.join(os.path.dirname(__file__), "checkpoint_process.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def owner(tmp_path):
    """A real second process that holds the directory."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, str(tmp_path), "lock"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_second_process_is_refused_and_named(owner, tmp_path):
    expected = rf"Another process works in {tmp_path}: process {owner.pid} on .*, since 20"
    with pytest.raises(ConfigError, match=expected):
        RunDirectory(str(tmp_path), resume=True).acquire()
    owner.kill()
    owner.wait()
    with RunDirectory(str(tmp_path), resume=True):  # a killed owner leaves no lock behind
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_lock_is_given_back_and_can_be_taken_again(tmp_path):
    directory = RunDirectory(str(tmp_path), resume=True)
    with directory, pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
        RunDirectory(str(tmp_path), resume=True).acquire()
    with directory:
        pass
    directory.release()


def test_forked_children_do_not_keep_the_lock(tmp_path):
    directory = RunDirectory(str(tmp_path), resume=True)
    directory.acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        with pytest.raises(ConfigError):  # the child did not free it either
            RunDirectory(str(tmp_path), resume=True).acquire()
        directory.release()
        RunDirectory(str(tmp_path), resume=True).acquire()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_another_runs_checkpoints_need_resume(tmp_path):
    Run(str(tmp_path)).train(0, 3)
    with pytest.raises(ConfigError, match=r"newest model_0000003\.pth, after 3 steps\)\. Add --resume"):
        RunDirectory(str(tmp_path), resume=False).acquire()
    with RunDirectory(str(tmp_path), resume=True):
        pass


def test_a_directory_without_checkpoints_is_fine_and_stale_files_go(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {}")
    (tmp_path / "model_0000001.pth.77.densessl-tmp").write_bytes(b"half")
    with RunDirectory(str(tmp_path), resume=False):
        assert sorted(os.listdir(tmp_path)) == [LOCK, "config.yaml"]


def test_missing_directories_are_made(tmp_path):
    with RunDirectory(str(tmp_path / "a" / "b"), resume=False):
        assert os.listdir(tmp_path / "a" / "b") == [LOCK]


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/densessl"])
def test_unwritable_places_are_named(tmp_path, path):
    (tmp_path / "file").write_text("not a directory")
    target = os.path.join(tmp_path, path)
    with pytest.raises(ConfigError, match=f"train.output_dir {target} cannot be written"):
        check_writable(target)


def test_read_only_directory(tmp_path):
    """Run without privileges: root may write everywhere, so the check happens as nobody in a child."""
    (tmp_path / "run").mkdir()
    os.chmod(tmp_path / "run", 0o555)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            check_writable(str(tmp_path / "run"))
        except ConfigError as error:
            status = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
