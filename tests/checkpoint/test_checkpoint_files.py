"""Faults of a checkpoint on disk: damage, kills at bad moments, a full disk, pointers that lead away."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from checkpoint_process import Run, train_until_killed

from densessl.checkpoint import files
from densessl.checkpoint.reading import read_training_checkpoint
from densessl.errors import CheckpointError

SCRIPT = os.path.join(os.path.dirname(__file__), "checkpoint_process.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, "PYTHONWARNINGS": "ignore"}


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints after 1, 2 and 3 steps; the first is pruned."""
    run = Run(str(tmp_path))
    run.train(0, 3)
    return run


def run_process(directory, mode, *arguments):
    command = [sys.executable, SCRIPT, str(directory), mode, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def test_sidecar_describes_the_file(run, tmp_path):
    path = str(tmp_path / "model_0000003.pth")
    sidecar = files.read_sidecar(path)
    assert sidecar == files.Sidecar(os.path.getsize(path), files.file_sha256(path), 3)
    assert files.read_pointer(str(tmp_path)) == path
    assert not [name for name in os.listdir(tmp_path) if name.endswith(files.TEMP_SUFFIX)]


def truncate(path):
    size = os.path.getsize(path)
    os.truncate(path, size // 2)
    return f"{size // 2:,} of {size:,} bytes"


def empty(path):
    size = os.path.getsize(path)
    os.truncate(path, 0)
    return f"0 of {size:,} bytes"


def flip_byte(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return "sha256"


def remove(path):
    os.remove(path)
    return "does not exist"


@pytest.mark.parametrize("damage", [truncate, empty, flip_byte, remove])
def test_damage_is_named_and_never_answered_by_unsafe_loading(run, tmp_path, damage):
    path = str(tmp_path / "model_0000003.pth")
    expected = damage(path)
    with pytest.raises(CheckpointError) as failure:
        read_training_checkpoint(path)
    assert path in str(failure.value)
    assert expected in str(failure.value)
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize("damage", [truncate, empty, flip_byte])
def test_damage_without_a_sidecar_is_found_too(run, tmp_path, damage):
    path = str(tmp_path / "model_0000003.pth")
    damage(path)
    os.remove(files.sidecar_path(path))
    with pytest.raises(CheckpointError, match="damaged") as failure:
        read_training_checkpoint(path)
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize("damage", [truncate, empty, flip_byte, remove])
def test_resume_takes_the_checkpoint_before_a_damaged_one(run, tmp_path, damage, caplog):
    damage(str(tmp_path / "model_0000003.pth"))
    again = Run(str(tmp_path))
    assert again.checkpointer.resume() == 2
    assert "model_0000003.pth" in caplog.text


def test_resume_refuses_when_all_are_damaged(run, tmp_path):
    for _, path in files.list_checkpoints(str(tmp_path)):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"(?s)No valid checkpoint.*0000003.*0000002"):
        Run(str(tmp_path)).checkpointer.resume()


def test_a_damaged_sidecar_is_named(run, tmp_path):
    (tmp_path / "model_0000003.pth.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model_0000003\.pth\.json is damaged"):
        files.verify(str(tmp_path / "model_0000003.pth"))
    assert Run(str(tmp_path)).checkpointer.resume() == 2


def test_newer_complete_file_is_used_when_the_pointer_did_not_move(run, tmp_path):
    files.write_pointer(str(tmp_path), "model_0000002.pth")
    os.remove(tmp_path / "model_0000003.pth.json")  # a kill right after the rename leaves no sidecar either
    assert Run(str(tmp_path)).checkpointer.resume() == 3
    os.remove(tmp_path / "last_checkpoint")
    assert Run(str(tmp_path)).checkpointer.resume() == 3


@pytest.mark.parametrize(
    "content", ["../secret.pth", "/etc/passwd", "sub/model_0000003.pth", "..", "", "a\0b"]
)
def test_pointer_that_leads_away_is_refused(run, tmp_path, content):
    (tmp_path / "last_checkpoint").write_text(content)
    with pytest.raises(CheckpointError, match="last_checkpoint must hold the name of a file"):
        Run(str(tmp_path)).checkpointer.resume()


def test_links_out_of_the_directory_are_refused(tmp_path):
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "run"
    for path in (elsewhere, directory):
        path.mkdir()
        Run(str(path)).train(0, 2)
    os.remove(directory / "model_0000002.pth")
    os.symlink(elsewhere / "model_0000002.pth", directory / "model_0000002.pth")
    with pytest.raises(CheckpointError, match="leads out of the run directory"):
        Run(str(directory)).checkpointer.resume()
    os.remove(directory / "last_checkpoint")
    os.symlink(elsewhere / "last_checkpoint", directory / "last_checkpoint")
    with pytest.raises(CheckpointError, match="leads out of the run directory"):
        files.read_pointer(str(directory))


def test_kill_between_temporary_and_rename(tmp_path):
    process = run_process(tmp_path, "die-at-replace", 2)
    assert process.returncode == 9, process.stderr
    stale = [name for name in os.listdir(tmp_path) if name.endswith(files.TEMP_SUFFIX)]
    assert len(stale) == 1
    assert stale[0].startswith("model_0000003.pth")
    assert files.newest_valid(str(tmp_path))[0].endswith("model_0000002.pth")
    assert files.clean_stale(str(tmp_path)) == stale
    assert Run(str(tmp_path)).checkpointer.resume() == 2


def test_stale_sidecar_is_cleaned_and_nothing_else(run, tmp_path):
    os.remove(tmp_path / "model_0000002.pth")
    before = set(os.listdir(tmp_path))
    assert files.clean_stale(str(tmp_path)) == ["model_0000002.pth.json"]
    assert set(os.listdir(tmp_path)) == before - {"model_0000002.pth.json"}


def test_sigkill_at_random_times_always_resumes(tmp_path):
    """A process that saves without pause, killed 20 times: each start takes the directory's lock at once and
    continues at the newest step that was reported, or the one after, from a file that verifies."""
    random.seed(0)
    reached = 0
    for _ in range(20):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                train_until_killed(str(tmp_path), write)
            finally:
                os._exit(1)
        os.close(write)
        with open(read) as reports:
            first = int(reports.readline())
            time.sleep(random.uniform(0.0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            steps = [first, *(int(line) for line in reports)]
        assert first in (reached + 1, reached + 2)
        reached = steps[-1]
        newest, damaged = files.newest_valid(str(tmp_path))
        assert not damaged
        assert read_training_checkpoint(newest)["iteration"] in (reached, reached + 1)
    assert reached > 20
    assert len(files.list_checkpoints(str(tmp_path))) <= 3  # a kill may come between saving and pruning


def test_full_disk_keeps_the_old_checkpoint_and_names_the_free_space(run, tmp_path, monkeypatch):
    def full(content, file):
        file.write(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    run.step()
    with pytest.raises(
        CheckpointError, match=r"model_0000004\.pth: No space left on device \([\d,]+ bytes are"
    ):
        run.checkpointer.save_step(4)
    monkeypatch.undo()
    assert sorted(n for n in os.listdir(tmp_path) if n.endswith(".pth")) == [
        "model_0000002.pth",
        "model_0000003.pth",
    ]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(files.TEMP_SUFFIX)]
    assert Run(str(tmp_path)).checkpointer.resume() == 3
    run.checkpointer.save_step(4)  # room was made: the same step is written after all
    assert Run(str(tmp_path)).checkpointer.resume() == 4


def test_the_systems_own_write_failure_is_reported_through_torch(tmp_path):
    """A file size limit stands for the full disk: the kernel refuses inside torch.save's C++ writer."""
    process = run_process(tmp_path, "small-disk", 2)
    assert process.returncode == 1
    assert "CheckpointError: Cannot write checkpoint" in process.stderr
    assert "File too large" in process.stderr
    assert not [name for name in os.listdir(tmp_path) if name.endswith(files.TEMP_SUFFIX)]
    assert Run(str(tmp_path)).checkpointer.resume() == 2


def test_vanished_directory_is_an_error_of_ours(run, tmp_path):
    for name in os.listdir(tmp_path):
        os.remove(tmp_path / name)
    os.rmdir(tmp_path)
    with pytest.raises(CheckpointError, match="directory cannot be read any more"):
        run.checkpointer.save_step(4)
    os.mkdir(tmp_path)


def test_sidecar_is_json_with_three_fields(run, tmp_path):
    content = json.loads((tmp_path / "model_0000002.pth.json").read_text())
    assert set(content) == {"bytes", "sha256", "iteration"}


def test_resume_reads_for_the_checksum_once(run, tmp_path, monkeypatch):
    """Seconds per gigabyte; the main process has compared it when it chose the file."""
    hashed, sha256 = [], files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or sha256(path))
    assert Run(str(tmp_path)).checkpointer.resume() == 3
    assert hashed == [str(tmp_path / "model_0000003.pth")]
