"""Saving and resuming a run: exactness, what is refused, retention, two processes."""

import os
import random

import numpy as np
import pytest
import torch
from checkpoint_process import CONFIG, Run
from omegaconf import OmegaConf
from ranks import run_ranks

from densessl.checkpoint import files
from densessl.checkpoint.reading import read_training_checkpoint
from densessl.checkpoint.state import collect_rng_state, plain_config, restore_rng_state
from densessl.errors import CheckpointError, ConfigError

SCRIPT = os.path.join(os.path.dirname(__file__), "checkpoint_process.py")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def names(directory):
    return sorted(name for name in os.listdir(directory) if name.endswith(".pth"))


def test_train_stop_resume_train_gives_the_same_bits(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    Run(str(tmp_path / "whole")).train(0, 6)
    Run(str(tmp_path / "parts")).train(0, 3)
    torch.manual_seed(12345)
    second = Run(str(tmp_path / "parts"))
    assert second.checkpointer.resume() == 3
    torch.rand(7)  # making a loader's iterator draws from the generator
    second.checkpointer.restore_rng()
    second.train(3, 6)
    left = read_training_checkpoint(str(tmp_path / "whole" / "model_0000006.pth"))
    right = read_training_checkpoint(str(tmp_path / "parts" / "model_0000006.pth"))
    assert left["trainer"] == right["trainer"]
    for key, value in left["model"].items():
        assert torch.equal(value, right["model"][key]), key
    for index, state in left["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], right["optimizer"]["state"][index]["momentum_buffer"])
    assert torch.equal(left["rng"][0]["torch"], right["rng"][0]["torch"])


def test_content_is_the_documented_one(tmp_path):
    Run(str(tmp_path)).train(0, 1)
    content = read_training_checkpoint(str(tmp_path / "model_0000001.pth"))
    assert list(content) == ["model", "optimizer", "trainer", "iteration", "rng", "data", "config", "meta"]
    assert content["config"] == CONFIG
    assert content["iteration"] == 1
    assert content["meta"]["format"] == "densessl"
    assert content["meta"]["architecture"] == "Sequential"
    assert content["meta"]["trunk"] == "backbone"
    assert content["meta"]["world_size"] == 1


def test_random_states_round_trip():
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    np.random.randn()  # leaves a cached second gaussian
    state = collect_rng_state()
    expected = (random.random(), np.random.randn(), np.random.rand(), float(torch.rand(())))
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    restore_rng_state(state)
    assert (random.random(), np.random.randn(), np.random.rand(), float(torch.rand(()))) == expected


def test_same_step_is_written_once_and_final_is_a_second_name(tmp_path):
    run = Run(str(tmp_path))
    run.train(0, 2)
    path = run.checkpointer.save_step(2)
    inode = os.stat(path).st_ino
    run.checkpointer.save_step(2, final=True)
    assert os.stat(path).st_ino == inode
    assert names(tmp_path) == ["model_0000001.pth", "model_0000002.pth", "model_final.pth"]
    assert os.path.samefile(tmp_path / "model_final.pth", path)
    files.verify(str(tmp_path / "model_final.pth"))
    again = Run(str(tmp_path))
    assert again.checkpointer.resume() == 2
    again.checkpointer.save_step(2, final=True)  # resumed at the last step: nothing to do
    assert os.stat(path).st_ino == inode


def test_model_final_alone_can_be_resumed(tmp_path):
    run = Run(str(tmp_path))
    run.train(0, 2)
    run.checkpointer.save_step(2, final=True)
    for name in ("model_0000001.pth", "model_0000002.pth"):
        os.remove(tmp_path / name)
    assert Run(str(tmp_path)).checkpointer.resume() == 2


def test_nothing_to_resume(tmp_path):
    run = Run(str(tmp_path))
    assert run.checkpointer.resume() is None
    assert not run.checkpointer.has_checkpoint()
    state = torch.get_rng_state()
    run.checkpointer.restore_rng()
    assert torch.equal(torch.get_rng_state(), state)


def test_retention_counts_files_found_after_a_resume(tmp_path):
    Run(str(tmp_path), max_to_keep=3).train(0, 5)
    assert names(tmp_path) == [f"model_000000{i}.pth" for i in (3, 4, 5)]
    again = Run(str(tmp_path), max_to_keep=2)
    again.checkpointer.resume()
    again.train(5, 6)
    assert names(tmp_path) == ["model_0000005.pth", "model_0000006.pth"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith("3.pth.json")]


def test_retention_off_keeps_everything(tmp_path):
    Run(str(tmp_path), max_to_keep=None).train(0, 4)
    assert len(names(tmp_path)) == 4


def test_damaged_files_do_not_count_as_kept(tmp_path):
    run = Run(str(tmp_path), max_to_keep=2)
    run.train(0, 2)
    # A damaged file from a later step: it must not push the last good one out.
    for name in ("model_0000009.pth", "model_0000009.pth.json"):
        (tmp_path / name).write_bytes((tmp_path / name.replace("9", "2")).read_bytes())
    os.truncate(tmp_path / "model_0000009.pth", 100)
    run.train(2, 3)
    assert names(tmp_path) == ["model_0000002.pth", "model_0000003.pth", "model_0000009.pth"]


def test_failure_to_delete_is_a_warning(tmp_path, monkeypatch, caplog):
    run = Run(str(tmp_path))
    run.train(0, 2)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files, "remove_checkpoint", refuse)
    run.train(2, 3)
    assert len(names(tmp_path)) == 3
    assert "Could not delete old checkpoint" in caplog.text


def test_fewer_than_two_kept_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_to_keep is 1"):
        Run(str(tmp_path), max_to_keep=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"total_batch_size": 8}, r"data\.total_batch_size: 4 -> 8"),
        ({"world_size": 2}, r"data\.world_size: 1 -> 2"),
        ({"seed": 1}, r"data\.seed: 0 -> 1"),
        ({"accumulate": 2}, r"data\.accumulate: \(absent\) -> 2"),
        ({"num_images": 17}, r"data\.num_images: 16 -> 17"),
        ({"names_hash": "ab"}, r"data\.names_hash: \(absent\) -> 'ab'"),
        (
            {"width": 16},
            r"model: 7 tensors of another shape: 0\.weight \(8, 4\) -> \(16, 4\).*of 9 tensors agree",
        ),
        ({"config": {**CONFIG, "model": {"width": 9}}}, r"config model\.width: 8 -> 9"),
        ({"config": {**CONFIG, "train": {"max_iter": 9, "seed": 3}}}, r"config train\.seed: \(absent\) -> 3"),
        ({"config": {**CONFIG, "train": {"max_iter": 1}}}, r"after 2 steps, beyond train\.max_iter 1"),
    ],
)
def test_resume_refuses_another_run_naming_the_difference(tmp_path, changes, expected):
    Run(str(tmp_path)).train(0, 2)
    other = Run(str(tmp_path), **changes)
    before = {key: value.clone() for key, value in other.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"(?s)Cannot resume from .*{expected}"):
        other.checkpointer.resume()
    assert all(torch.equal(value, before[key]) for key, value in other.model.state_dict().items())


def test_resume_refuses_another_architecture(tmp_path):
    Run(str(tmp_path)).train(0, 1)
    other = Run(str(tmp_path))

    class Other(torch.nn.Sequential):
        pass

    other.checkpointer.model = Other(*other.model)
    with pytest.raises(CheckpointError, match="architecture: Sequential -> Other"):
        other.checkpointer.resume()


def test_resume_refuses_other_optimizer_groups(tmp_path):
    Run(str(tmp_path)).train(0, 1)
    other = Run(str(tmp_path))
    groups = [{"params": [p]} for p in other.model.parameters()]
    other.checkpointer.checkpointables["optimizer"] = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    with pytest.raises(CheckpointError, match="optimizer: 1 -> 6 parameter groups"):
        other.checkpointer.resume()
    other.checkpointer.checkpointables["optimizer"] = torch.optim.AdamW(other.model.parameters())
    with pytest.raises(CheckpointError, match=r"param_groups\[0\]: hyper-parameter 'amsgrad'"):
        other.checkpointer.resume()


def test_worker_count_longer_schedule_and_other_lr_are_allowed_and_said(tmp_path, caplog):
    Run(str(tmp_path), num_workers=0).train(0, 2)
    longer = {**CONFIG, "train": {"max_iter": 2000}, "dataloader": {"train": {"num_workers": 4}}}
    other = Run(str(tmp_path), num_workers=4, config=longer)
    other.optimizer.param_groups[0]["lr"] = 0.5
    assert other.checkpointer.resume() == 2
    assert "config train.max_iter: 1000 -> 2000" in caplog.text
    assert "base lr 0.01 in the checkpoint, 0.5 in the config" in caplog.text
    assert other.optimizer.param_groups[0]["lr"] == 0.01


def test_file_of_another_project_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"not a training checkpoint of this project \(no entry config"):
        Run(str(tmp_path)).checkpointer.resume()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.float64(1.5), "numpy.float64"), (np.int64(3), "numpy.int64"), (np.zeros(2), "numpy.ndarray"),
     (OmegaConf.create([0.9, 0.99]), "ListConfig"), ({1, 2}, "builtins.set")],
)  # fmt: skip
def test_what_could_not_be_loaded_is_refused_at_saving(tmp_path, value, kind):
    run = Run(str(tmp_path))
    run.optimizer.param_groups[0]["betas"] = value
    for save in (run.checkpointer.check_saveable, lambda: run.checkpointer.save_step(1)):
        with pytest.raises(CheckpointError, match=rf"optimizer\.param_groups\[0\]\.betas is a .*{kind}"):
            save()
    assert names(tmp_path) == []


def test_checking_saves_nothing(tmp_path):
    Run(str(tmp_path)).checkpointer.check_saveable()
    assert os.listdir(tmp_path) == []


def test_free_names_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="save_step"):
        Run(str(tmp_path)).checkpointer.save("mine")


def test_config_becomes_plain():
    node = OmegaConf.create(
        {"a": [1, 2], "b": "${a}", "f": os.path.join, "n": {"_target_": torch.nn.Linear}},
        flags={"allow_objects": True},
    )
    assert plain_config(node) == {
        "a": [1, 2],
        "b": [1, 2],
        "f": "posixpath.join",
        "n": {"_target_": "torch.nn.modules.linear.Linear"},
    }


def test_two_processes_save_and_restore_their_own_random_states(tmp_path):
    codes, outputs = run_ranks(SCRIPT, [str(tmp_path), "gather"])
    assert codes == [0, 0], "\n".join(outputs)
    for rank in (0, 1):
        assert f"rank {rank} refused: The checkpoint entry trainer.seen is a numpy.float64" in outputs[rank]
    content = read_training_checkpoint(str(tmp_path / "model_0000001.pth"))
    assert len(content["rng"]) == content["meta"]["world_size"] == 2
    assert not torch.equal(content["rng"][0]["torch"], content["rng"][1]["torch"])
    with pytest.raises(CheckpointError, match=r"data\.world_size: 2 -> 1; world size: 2 -> 1"):
        Run(str(tmp_path)).checkpointer.resume()
