"""The non-finite guard: at once and deferred, nothing is updated, the capture replays."""

from pathlib import Path

import pytest
import torch
from engine_toy import ToyNet, assert_same, make_trainer, weights

from densessl.config import load_config
from densessl.engine.replay import replay
from densessl.errors import CheckpointError, ConfigError, NonFiniteError

CONFIG = str(Path(__file__).with_name("toy_config.py"))
BAD = 17  # image; which step meets it is read from the loader
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


def step_of_bad_image(tmp_path, batch: int = 8) -> int:
    loader = make_trainer(tmp_path, batch=batch).data_loader
    for step, micro in enumerate(loader):
        if BAD in micro["image_id"]:
            return step
    raise AssertionError


@pytest.mark.parametrize("kind", ["loss", "grad"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("deferred", [False, True])
def test_bad_step_updates_nothing(tmp_path, kind, optimizer, deferred):
    model = {"norm": "none", "bad_image_id": BAD, "bad": kind}
    bad = step_of_bad_image(tmp_path)
    assert 0 < bad < 7
    kwargs = {"optimizer": OPTIMIZERS[optimizer], "deferred_check": deferred, "log_period": 8}
    good = make_trainer(tmp_path, model={"norm": "none"}, **kwargs)
    good.train(0, bad)  # stands where the other run stood before the bad step
    trainer = make_trainer(tmp_path, model=model, **kwargs)
    with pytest.raises(NonFiniteError, match=f"Iteration {bad}: "):
        trainer.train(0, 8)
    assert trainer.iter == (7 if deferred else bad)  # deferred: seen at the log step
    assert_same(weights(trainer.module), weights(good.module))
    for index, state in good.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(
                trainer.optimizer.state_dict()["state"][index][name], value, rtol=0, atol=0
            )
    capture = torch.load(tmp_path / f"non_finite_{bad:07d}.pth", weights_only=True)
    assert capture["iteration"] == bad
    assert f"image_{BAD:03d}.png" in capture["ranks"][0]["file_names"][0]
    assert_same(capture["model"], weights(good.module))
    expected = (
        [name for name, _ in ToyNet(norm="none").named_parameters()] if kind == "loss" else ["head.bias"]
    )
    assert capture["non_finite_gradients"] == expected


def test_bad_micro_batch_is_named(tmp_path):
    trainer = make_trainer(tmp_path, model={"bad_image_id": BAD}, accumulate=4)
    with pytest.raises(NonFiniteError):
        trainer.train(0, 8)
    (path,) = tmp_path.glob("non_finite_*.pth")
    part = torch.load(path, weights_only=True)["ranks"][0]
    bad = [f"image_{BAD:03d}.png" in names for names in part["file_names"]]
    assert sum(bad) == 1
    assert [torch.tensor(micro["loss_toy"]).isnan().item() for micro in part["losses"]] == bad


def test_deferred_check_before_a_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, model={"bad_image_id": BAD}, deferred_check=True, log_period=100)
    after_step = trainer.after_step

    def look_in_the_middle():
        after_step()
        if trainer.iter == 7:
            trainer.synchronize()  # what CheckpointHook does before saving

    trainer.after_step = look_in_the_middle
    with pytest.raises(NonFiniteError, match=f"Iteration {step_of_bad_image(tmp_path)}: "):
        trainer.train(0, 20)


@pytest.mark.parametrize("deferred", [False, True])
def test_replay_gives_the_same_losses(tmp_path, deferred):
    cfg = load_config(CONFIG, [f"model.bad_image_id={BAD}", "model.dropout=0.5"])
    trainer = make_trainer(
        tmp_path,
        model={"bad_image_id": BAD, "dropout": 0.5},
        deferred_check=deferred,
        accumulate=2,
        log_period=8,
    )
    cfg.train.accumulate = 2
    with pytest.raises(NonFiniteError):
        trainer.train(0, 8)
    (path,) = tmp_path.glob("non_finite_*.pth")
    result = replay(cfg, str(path))
    assert result.reproduced
    for now, then in zip(result.losses, result.recorded):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
    assert len(result.non_finite_gradients) == 5
    cfg.model.bad_image_id = -1
    assert not replay(cfg, str(path)).reproduced


def test_replay_refuses_what_does_not_fit(tmp_path):
    cfg = load_config(CONFIG, [f"model.bad_image_id={BAD}"])
    trainer = make_trainer(tmp_path, model={"bad_image_id": BAD})
    with pytest.raises(NonFiniteError):
        trainer.train(0, 8)
    (path,) = tmp_path.glob("non_finite_*.pth")
    with pytest.raises(ConfigError, match="ranks 0 to 0"):
        replay(cfg, str(path), rank=1)
    cfg.model.norm = "none"
    with pytest.raises(CheckpointError, match="another model"):
        replay(cfg, str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="is damaged"):
        replay(cfg, str(path))
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="is not the capture of a non-finite step"):
        replay(cfg, str(path))
    path.write_text("hello " * 40)
    with pytest.raises(CheckpointError, match="not a torch file"):
        replay(cfg, str(path))
