"""The training loop on a toy model: accumulation, clipping, precision, skipped steps, metrics."""

import json

import pytest
import torch
from engine_toy import HostReads, ToyNet, assert_same, make_trainer, preload, weights

from densessl.engine.events import TensorEventStorage, TerminalWriter
from densessl.engine.train_loop import MAX_CONSECUTIVE_SKIPS
from densessl.errors import CheckpointError, ConfigError, NonFiniteError


def test_accumulation_equals_larger_batch(tmp_path):
    whole = make_trainer(tmp_path, model={"norm": "none"})
    split = make_trainer(tmp_path, model={"norm": "none"}, accumulate=4)
    whole.train(0, 5)
    split.train(0, 5)
    assert_same(weights(whole.module), weights(split.module), atol=1e-6)
    assert whole.module.moved.abs().sum() > 0
    assert split.storage.history("total_loss").latest() == pytest.approx(
        whole.storage.history("total_loss").latest(), abs=1e-6
    )


def test_one_step_by_hand(tmp_path):
    trainer = make_trainer(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    reference = ToyNet()
    reference.load_state_dict(trainer.module.state_dict())
    batch = next(iter(trainer.data_loader))
    loss = sum(reference(batch).values())
    loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= 0.1 * parameter.grad
    reference.after_optimizer_step()
    trainer.train(0, 1)
    assert_same(weights(trainer.module), weights(reference), atol=1e-7)


def test_clip_norm_scales_the_whole_gradient(tmp_path):
    trainer = make_trainer(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), clip_norm=0.01)
    before = weights(trainer.module)
    trainer.train(0, 1)
    steps = [before[name] - p.detach() for name, p in trainer.module.named_parameters()]
    norm = torch.sqrt(sum(step.square().sum() for step in steps))
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert trainer.storage.history("grad_norm").latest() > 0.5  # logged as it was before clipping


def test_clip_value_bounds_every_element(tmp_path):
    trainer = make_trainer(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), clip_value=0.003)
    before = weights(trainer.module)
    trainer.train(0, 1)
    largest = max((before[name] - p.detach()).abs().max() for name, p in trainer.module.named_parameters())
    assert largest.item() == pytest.approx(0.003, rel=1e-3)


def test_small_gradient_is_not_clipped(tmp_path):
    plain, clipped = make_trainer(tmp_path), make_trainer(tmp_path, clip_norm=1e6, clip_value=1e6)
    plain.train(0, 3)
    clipped.train(0, 3)
    assert_same(weights(plain.module), weights(clipped.module))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_full_precision(tmp_path, dtype):
    exact, low = make_trainer(tmp_path), make_trainer(tmp_path, amp_dtype=dtype)
    assert (low.scaler is not None) == (dtype is torch.float16)
    if low.scaler is not None:
        low.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)  # nothing overflows, no step is skipped
    exact.train(0, 4)
    low.train(0, 4)
    assert low.skipped_steps == 0
    difference = abs(
        exact.storage.history("total_loss").latest() - low.storage.history("total_loss").latest()
    )
    assert 0 < difference < 0.02


def overflowing_scaler(init_scale: float = 3e38) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=init_scale, backoff_factor=0.001)


def test_skipped_step_changes_nothing_but_the_scale(tmp_path):
    trainer = make_trainer(tmp_path, model={"norm": "none"}, scaler=overflowing_scaler())
    before = weights(trainer.module)
    trainer.train(0, 1)
    assert not trainer.stepped
    assert trainer.skipped_steps == 1
    assert trainer.module.discarded == 1
    assert not trainer.module.pending
    assert trainer.optimizer.state == {}
    assert_same(weights(trainer.module), before)
    assert trainer.scaler.get_scale() == pytest.approx(3e35)


def test_training_goes_on_after_skipped_steps(tmp_path):
    trainer = make_trainer(tmp_path, model={"norm": "none"}, scaler=overflowing_scaler())
    trainer.train(0, 3)
    assert trainer.skipped_steps == 1
    assert trainer.stepped
    assert trainer._consecutive_skips == 0
    # the two performed steps are those of images 8..23
    reference = make_trainer(tmp_path, model={"norm": "none"})
    reference.data_loader.set_step(1)
    reference.train(1, 3)
    assert_same(weights(trainer.module), weights(reference.module), atol=1e-6)


def test_endless_overflow_stops(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=0.999)
    trainer = make_trainer(tmp_path, scaler=scaler)
    with pytest.raises(NonFiniteError, match=f"Iteration {MAX_CONSECUTIVE_SKIPS - 1}"):
        trainer.train(0, 100)


def test_state_is_plain_and_restores_skips_and_histories(tmp_path):
    trainer = make_trainer(tmp_path, scaler=overflowing_scaler())
    trainer.train(0, 5)
    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    other = make_trainer(tmp_path, scaler=overflowing_scaler())
    other.load_state_dict(state)
    assert other.skipped_steps == 1
    assert other.scaler.get_scale() == trainer.scaler.get_scale()
    old, new = trainer.storage.history("total_loss"), other.storage.history("total_loss")
    assert old.values() == new.values()
    assert old.median(20) == new.median(20)
    assert old.global_avg() == new.global_avg()
    with pytest.raises(CheckpointError, match="gradient scaler"):
        make_trainer(tmp_path).load_state_dict(state)


def test_metrics_are_not_read_between_log_steps(tmp_path):
    # fused SGD takes the guard's flag on the device, as on CUDA
    trainer = make_trainer(tmp_path, deferred_check=True, log_period=10)
    preload(trainer, 10)
    counts = []
    with HostReads() as reads:
        after_step = trainer.after_step
        trainer.after_step = lambda: (counts.append(reads.count), after_step())
        trainer.train(0, 10)
    assert counts[:9] == [0] * 9
    assert counts[9] > 0
    assert len(trainer.storage.history("total_loss").values()) == 10


def test_losses_must_be_called_losses(tmp_path):
    trainer = make_trainer(tmp_path)
    forward = trainer.module.forward
    trainer.module.forward = lambda batch: {**forward(batch), "accuracy": torch.tensor(50.0)}
    with pytest.raises(ConfigError, match="accuracy"):
        trainer.train(0, 1)


def test_storage_averages_micro_batches_and_keeps_numbers():
    with TensorEventStorage(7) as storage:
        storage.put_scalar("x", torch.tensor(1.0))
        storage.put_scalar("x", torch.tensor([3.0]))
        storage.put_scalar("y", 5.0)
        assert storage.num_pending == 2
        with pytest.raises(KeyError):
            storage.history("x")
        storage.flush()
    assert storage.history("x").values() == [(2.0, 7)]
    assert storage.history("y").values() == [(5.0, 7)]
    assert storage.num_pending == 0


def test_terminal_line_has_what_a_user_waits_for(caplog):
    with TensorEventStorage(19) as storage, caplog.at_level("INFO", "densessl.progress"):
        storage.put_scalar("total_loss", torch.tensor(1.25))
        storage.flush()
        storage.put_scalars(
            smoothing_hint=False,
            eta_seconds=3700.0,
            elapsed_seconds=65.0,
            images_per_second=812.0,
            data_wait=0.034,
            peak_memory_mb=2048.0,
            lr=0.03,
        )
        writer = TerminalWriter(100)
        writer.write()
        writer.write()  # nothing new
    assert len(caplog.messages) == 1
    for piece in ("20/100", "eta 1:01:40", "elapsed 0:01:05", "812 img/s", "data wait 3%", "mem 2.00G"):
        assert piece in caplog.messages[0]
    assert "lr 0.03" in caplog.messages[0]
    assert "total_loss 1.25" in caplog.messages[0]


def test_metrics_file_is_cut_at_the_resumed_iteration(tmp_path):
    from densessl.engine.events import build_writers

    rows = [{"iteration": i, "total_loss": 1.0} for i in (19, 39, 59)]
    file = tmp_path / "metrics.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 7')
    for writer in build_writers(str(tmp_path), 100, 40, {"enabled": False}, {}):
        writer.close()
    assert [json.loads(line)["iteration"] for line in file.read_text().splitlines()] == [19, 39]
