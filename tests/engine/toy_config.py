"""Config of the engine's end-to-end tests; needs tests/engine on the import path."""

from detectron2.config import LazyCall as L
from engine_toy import KeepRecord, ToyEvaluator, ToyMapper, ToyTestNet, collate, records
from fvcore.common.param_scheduler import CosineParamScheduler

from densessl.config import get_config
from densessl.data.build import build_test_loader, build_train_loader

train = get_config("common/train.py").train
optimizer = get_config("common/optim.py").SGD
model = L(ToyTestNet)(norm="BN", dropout=0.1)
dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(records)(count=64),
        mapper=L(ToyMapper)(size=8),
        total_batch_size=8,
        seed="${train.seed}",
        accumulate="${train.accumulate}",
        num_workers=0,
        collate_fn=collate,
    ),
    test=L(build_test_loader)(dataset=L(records)(count=4), mapper=L(KeepRecord)(), num_workers=0),
    evaluator=L(ToyEvaluator)(),
)
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train.max_iter = 12
train.log_period = 4
train.eval_period = 0
train.checkpointer.period = 6
train.device = "cpu"
train.amp.enabled = False
