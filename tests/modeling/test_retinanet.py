"""RetinaNet's normaliser: detectron2's arithmetic, kept in checkpoints, advanced once per performed step."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from densessl.config import load_config
from densessl.engine.model_transforms import replace_sync_bn

torch.set_num_threads(1)
TWIN = Path(__file__).parents[2] / "configs/quick_schedules/retinanet_R_50_FPN_1x_quick.py"


def build(target=None):
    torch.manual_seed(0)
    node = load_config(str(TWIN)).model
    if target is not None:
        node._target_ = target
    model = instantiate(node)
    replace_sync_bn(model)
    return model.train()


def batch(seed):
    """One image of 64 pixels with one to three boxes, so that the counts of positive anchors differ."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(1 + seed % 3, 2, generator=generator) * 20
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.cat([corners, corners + 30], 1))
    instances.gt_classes = torch.zeros(len(corners), dtype=torch.int64)
    image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
    return [{"image": image, "instances": instances}]


def losses(model, seed):
    with EventStorage(0), torch.no_grad():
        return {name: value.item() for name, value in model(batch(seed)).items()}


@pytest.fixture(scope="module")
def models():
    return build(), build(RetinaNet)


def reset(model):
    model.discard_pending()
    model.loss_normalizer.fill_(100.0)
    return model


def test_losses_are_detectron2s_to_the_bit(models):
    ours, theirs = models
    reset(ours)
    assert ours.loss_normalizer == 100
    for seed in range(4):
        assert losses(ours, seed) == losses(theirs, seed)
        ours.after_optimizer_step()
        assert ours.loss_normalizer.item() == pytest.approx(theirs.loss_normalizer, rel=1e-12)
    assert ours.loss_normalizer < 99


def test_a_restored_model_goes_on_where_it_was(models):
    ours = reset(models[0])
    losses(ours, 1)
    ours.after_optimizer_step()
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    expected = losses(ours, 2)
    ours.load_state_dict(state)
    ours.discard_pending()
    assert losses(ours, 2) == expected
    reset(ours).load_state_dict({**state, "loss_normalizer": torch.tensor(100.0, dtype=torch.float64)})
    assert losses(ours, 2) != expected  # what a detectron2 run that resumes would compute


def test_micro_batches_advance_it_once_by_their_mean(models):
    ours, counts = reset(models[0]), []
    for seed in (0, 1):
        losses(ours, seed)
        counts.append((ours._pending[-1].item() - 90) / 0.1)  # 0.9 * 100 + 0.1 n
        assert ours.loss_normalizer == 100
    assert counts[0] != counts[1]
    ours.after_optimizer_step()
    assert ours.loss_normalizer.item() == pytest.approx(90 + 0.1 * sum(counts) / 2)


def test_steps_that_are_not_performed_leave_it_alone(models):
    ours = reset(models[0])
    losses(ours, 0)
    ours.discard_pending()  # as PreciseBNHook does, and a step that overflowed
    ours.after_optimizer_step()
    assert ours.loss_normalizer == 100
    losses(ours, 0)
    ours.after_optimizer_step(skip=torch.tensor(1.0))
    assert ours.loss_normalizer == 100
    losses(ours, 0)
    ours.after_optimizer_step(skip=torch.tensor(0.0))
    assert ours.loss_normalizer < 100
