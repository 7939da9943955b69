"""Hooks on the toy trainer: schedules, EMA, throughput, checkpoints."""

import math

import pytest
import torch
from detectron2.engine.train_loop import HookBase
from engine_toy import make_trainer, weights
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler

from densessl.engine.hooks import CheckpointHook, EMAHook, ParamScheduleHook, Schedule, ThroughputHook
from densessl.errors import CheckpointError, ConfigError


class Watch(HookBase):
    """Notes values before each step, after the schedules were applied."""

    def __init__(self, read):
        self.read, self.seen = read, []

    def before_step(self):
        self.seen.append(self.read(self.trainer))


def two_groups(parameters):
    *most, last = parameters
    return torch.optim.SGD(
        [
            {"params": most, "lr": 0.2, "weight_decay": 0.1, "fixed_lr": False},
            {"params": [last], "lr": 0.05, "weight_decay": 0.0, "fixed_lr": True},
        ]
    )


def test_schedules_set_exact_values(tmp_path):
    trainer = make_trainer(tmp_path, optimizer=two_groups)
    schedules = [
        Schedule("lr", CosineParamScheduler(1.0, 0.0)),
        Schedule("weight_decay", LinearParamScheduler(0.2, 0.6)),
        Schedule("model.momentum", LinearParamScheduler(0.5, 1.0)),
        Schedule("hooks.EMAHook.momentum", LinearParamScheduler(0.0, 1.0)),
    ]
    ema = EMAHook(trainer.module, "backbone", 0.5)

    def read(trainer):
        first, second = trainer.optimizer.param_groups
        return (
            *(first["lr"], second["lr"], first["weight_decay"], second["weight_decay"]),
            *(trainer.module.momentum, ema.momentum),
        )

    watch = Watch(read)
    trainer.register_hooks([ParamScheduleHook(schedules, trainer.optimizer, 4), ema, watch])
    trainer.train(0, 4)
    expected = [
        (0.2 * 0.5 * (1 + math.cos(math.pi * t / 4)), 0.05, 0.2 + 0.1 * t, 0.0, 0.5 + t / 8, t / 4)
        for t in range(4)
    ]
    for seen, wanted in zip(watch.seen, expected):
        assert seen == pytest.approx(wanted, abs=1e-12)
    assert trainer.storage.history("lr").latest() == pytest.approx(expected[3][0])
    assert trainer.storage.history("schedule/model.momentum").latest() == pytest.approx(0.875)


def test_schedules_wait_for_skipped_steps(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=0.001)
    trainer = make_trainer(tmp_path, model={"norm": "none"}, scaler=scaler)
    watch = Watch(lambda trainer: trainer.optimizer.param_groups[0]["lr"])
    ema = EMAHook(trainer.module, "", 0.0)
    schedule = Schedule("lr", LinearParamScheduler(1.0, 0.0))
    trainer.register_hooks([ParamScheduleHook([schedule], trainer.optimizer, 4), ema, watch])
    before = weights(trainer.module)
    trainer.train(0, 1)
    assert not trainer.stepped
    torch.testing.assert_close(ema.average["head.weight"], before["head.weight"], rtol=0, atol=0)
    trainer.train(1, 4)
    assert watch.seen == pytest.approx([0.1, 0.1, 0.075, 0.05])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model.momentun", "not a number that can be scheduled"),
        ("model.nothing.momentum", "not a number"),
        ("model.moved", "not a number"),
        ("hooks.EMAHok.momentum", "no hook 'EMAHok'"),
    ],
)
def test_schedule_target_must_exist(tmp_path, target, message):
    trainer = make_trainer(tmp_path)
    schedule = Schedule(target, LinearParamScheduler(0.0, 1.0))
    trainer.register_hooks([ParamScheduleHook([schedule], trainer.optimizer, 4)])
    with pytest.raises(ConfigError, match=message):
        trainer.train(0, 4)
    assert trainer.optimizer.state == {}


def test_schedule_targets_are_known_and_single(tmp_path):
    with pytest.raises(ConfigError, match="'learning_rate' is unknown"):
        Schedule("learning_rate", LinearParamScheduler(0.0, 1.0))
    twice = [Schedule("lr", LinearParamScheduler(0.0, 1.0))] * 2
    with pytest.raises(ConfigError, match="lr has two schedules"):
        ParamScheduleHook(twice, make_trainer(tmp_path).optimizer, 4)


def test_ema_follows_its_recurrence(tmp_path):
    trainer = make_trainer(tmp_path)
    ema = EMAHook(trainer.module, "backbone", 0.7)
    expected = weights(trainer.module.backbone)

    class Recurrence(HookBase):
        def after_step(self):
            for name, value in self.trainer.module.backbone.state_dict().items():
                if name.endswith(("weight", "bias")):
                    expected[name] = 0.7 * expected[name] + 0.3 * value
                else:  # running statistics and the batch counter
                    expected[name] = value.clone()

    trainer.register_hooks([ema, Recurrence()])
    trainer.train(0, 5)
    assert set(ema.average) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ema.average[name], value, rtol=0, atol=1e-6)
    assert not torch.equal(ema.average["0.weight"], trainer.module.backbone[0].weight)


def test_ema_of_whole_model_with_momentum_one_stays(tmp_path):
    trainer = make_trainer(tmp_path, model={"norm": "none"})
    start = weights(trainer.module)
    ema = EMAHook(trainer.module, "", 1.0)
    trainer.register_hooks([ema])
    trainer.train(0, 3)
    for name, _ in trainer.module.named_parameters():
        torch.testing.assert_close(ema.average[name], start[name], rtol=0, atol=0)


def test_two_hooks_of_one_class_keep_two_states(tmp_path):
    def build():
        trainer = make_trainer(tmp_path)
        hooks = [EMAHook(trainer.module, "backbone", 0.7), EMAHook(trainer.module, "head", 0.2)]
        trainer.register_hooks(hooks)
        return trainer, hooks

    trainer, hooks = build()
    trainer.train(0, 3)
    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    other, restored = build()
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for old, new in zip(hooks, restored):
        for name in old.average:
            torch.testing.assert_close(new.average[name], old.average[name], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="EMAHook"):
        make_trainer(tmp_path).load_state_dict(trainer.state_dict())


def test_ema_of_unknown_module(tmp_path):
    with pytest.raises(ConfigError, match="backbone, head"):
        EMAHook(make_trainer(tmp_path).module, "bakbone", 0.9)


def test_throughput_counts_images_and_waiting(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    trainer = make_trainer(tmp_path, log_period=2)
    throughput = ThroughputHook(32, trainer.device)

    class Slow(HookBase):
        def after_step(self):
            clock[0] += 0.5
            self.trainer.data_seconds = 0.125

    trainer.register_hooks([Slow(), throughput])
    trainer.train(0, 4)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["time"] == pytest.approx(0.5)
    assert latest["images_per_second"] == pytest.approx(64)
    assert latest["data_wait"] == pytest.approx(0.25)
    assert latest["elapsed_seconds"] == pytest.approx(2.0)
    assert latest["eta_seconds"] == 0
    assert latest["peak_memory_mb"] > 50
    assert throughput.state_dict() == {"elapsed": pytest.approx(2.0)}


def test_checkpoints_are_periodic_and_final_once(tmp_path):
    saved = []
    trainer = make_trainer(tmp_path)
    trainer.register_hooks([CheckpointHook(lambda n, final: saved.append((n, final)), period=3)])
    trainer.train(0, 7)
    assert saved == [(3, False), (6, False), (7, True)]


def test_failed_save_stops_training(tmp_path):
    def full_disk(iteration, final):
        if iteration == 4:
            raise CheckpointError("no space")

    trainer = make_trainer(tmp_path)
    trainer.register_hooks([CheckpointHook(full_disk, period=2)])
    with pytest.raises(CheckpointError, match="no space"):
        trainer.train(0, 20)
    assert trainer.iter == 3
