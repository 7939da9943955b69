"""Relations between MoCo, DenseCL and SimSiam, their state, their input and their errors."""

import copy
import logging
import math

import numpy as np
import pytest
import torch
from densecl_golden import ConvBackbone
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.utils.events import EventStorage
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from densessl.engine.events import TensorEventStorage
from densessl.errors import ConfigError
from densessl.layers.photometric import NUM_PARAMS, SIGMA
from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import (
    DenseProjectionHead,
    GlobalProjectionHead,
    SimSiamPredictor,
    SimSiamProjector,
)
from densessl.modeling.meta_arch import DenseCL, MoCo, SimSiam

torch.set_num_threads(1)

PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}


class NormFreeBackbone(Backbone):
    """A strided convolution: images do not see each other."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)

    def forward(self, x):
        return {"map": self.conv(x)}  # no ReLU: dead channels would make ties in the match

    def output_shape(self):
        return {"map": ShapeSpec(channels=6, stride=2)}


def make(method, backbone=None, seed=0, num_grid=None, **options):
    torch.manual_seed(seed)
    np.random.seed(seed)  # of the queue
    backbone = backbone or NormFreeBackbone()
    common = {"backbone": backbone, "in_feature": "map", **PIXELS, **options}
    if method is SimSiam:
        return SimSiam(
            projection_head=SimSiamProjector(in_channels=6, out_channels=8),
            prediction_head=SimSiamPredictor(channels=8, hidden_channels=4),
            **common,
        )
    head = GlobalProjectionHead(in_channels=6, hidden_channels=12, out_channels=8)
    common.setdefault("projection_head", head)
    common = {"queue_size": 16, "momentum": 0.9, **common}
    if method is DenseCL:
        common["dense_projection_head"] = DenseProjectionHead(
            in_channels=6, hidden_channels=12, out_channels=8, num_grid=num_grid
        )
    return method(**common)


def make_batch(count=4, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    views = [
        torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator) for _ in "qk"
    ]
    return {"views": views}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model, *batches):
    model.zero_grad()
    losses = [model(batch) for batch in batches]
    (sum(sum(loss.values()) for loss in losses) / len(batches)).backward()
    return {name: sum(loss[name].item() for loss in losses) / len(batches) for name in losses[0]}


def slices(batch, *bounds):
    return [{"views": [view[a:b] for view in batch["views"]]} for a, b in zip(bounds, bounds[1:])]


def test_registered():
    for method in (MoCo, DenseCL, SimSiam):
        assert META_ARCH_REGISTRY.get(method.__name__) is method


def test_densecl_without_dense_weight_is_moco():
    moco, densecl = make(MoCo), make(DenseCL, loss_weight=0.0)
    densecl.load_state_dict(moco.state_dict(), strict=False)
    batch = make_batch()
    expected, losses = backward(moco, batch), backward(densecl, batch)
    assert losses == {"loss_global": expected["loss_global"], "loss_dense": 0.0}
    actual = gradients(densecl)
    for name, grad in gradients(moco).items():
        assert torch.equal(actual.pop(name), grad)
    assert len(actual) == 4  # the dense head: zero, as in the authors' warm-up, and not None
    assert all(grad.eq(0).all() for grad in actual.values())
    moco.after_optimizer_step()
    densecl.after_optimizer_step()
    for name, value in moco.state_dict().items():
        assert_close(densecl.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("num_grid", [1, 3, 8, 9, None])
def test_any_grid_trains(num_grid):
    """The map is 8 x 8; the authors' code fails for every other number."""
    model = make(DenseCL, num_grid=num_grid)
    losses = backward(model, make_batch())
    assert all(math.isfinite(value) for value in losses.values())
    assert gradients(model)["dense_projection_head.mlp.0.weight"].abs().sum() > 0
    positions = (num_grid or 8) ** 2
    feature = model.backbone(torch.zeros(2, 3, 16, 16))["map"]
    assert model.embed_query(feature)["dense"].shape == (2, 8, positions)
    assert model.embed_query(feature)["grid"].shape == (2, 6, positions)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", [MoCo, DenseCL])
def test_accumulation_equals_the_larger_batch(method, symmetric):
    batch = make_batch()
    whole, parts = make(method, symmetric=symmetric), make(method, symmetric=symmetric)
    parts.load_state_dict(whole.state_dict())
    expected = backward(whole, batch)
    assert_close(backward(parts, *slices(batch, 0, 2, 4)), expected, rtol=1e-6, atol=1e-6)
    other = gradients(parts)
    for name, grad in gradients(whole).items():
        assert_close(other[name], grad, rtol=1e-5, atol=1e-6)
    for model in (whole, parts):
        model.after_optimizer_step()
    for name, value in whole.state_dict().items():
        assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert whole.queue_filled.item() == (8 if symmetric else 4)


def test_symmetric_loss_is_the_mean_of_both_directions():
    batch = make_batch()
    swapped = {"views": batch["views"][::-1]}
    one, two = make(DenseCL), make(DenseCL, symmetric=True)
    two.load_state_dict(one.state_dict())
    expected = backward(one, batch, swapped)
    assert_close(backward(two, batch), expected, rtol=1e-6, atol=1e-6)
    for name, grad in gradients(one).items():
        assert_close(gradients(two)[name], grad, rtol=1e-5, atol=1e-6)


def test_forward_changes_no_state_but_batch_statistics():
    model = make(DenseCL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backward(model, make_batch())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_skip_and_discard_leave_everything():
    model = make(DenseCL)
    nn.init.normal_(model.backbone.conv.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(make_batch())
    model.after_optimizer_step(skip=torch.tensor(True))
    model(make_batch())
    model.discard_pending()
    model.enqueue_pending()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_momentum_of_one_freezes_the_key_encoder():
    model = make(DenseCL, momentum=1.0)
    frozen = {n: v.clone() for n, v in model.state_dict().items() if n.startswith("momentum_")}
    assert len(frozen) == 2 + 4 + 4
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    backward(model, make_batch())
    optimizer.step()
    model.after_optimizer_step()
    for name, value in frozen.items():
        assert torch.equal(model.state_dict()[name], value)
        assert not torch.equal(model.state_dict()[name.removeprefix("momentum_")], value)


def test_key_encoder_gets_no_gradient_and_is_not_optimised():
    model = make(DenseCL)
    backward(model, make_batch())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("momentum_")
        assert parameter.requires_grad != name.startswith("momentum_")


@pytest.mark.parametrize("method", [MoCo, DenseCL, SimSiam])
def test_collated_batch_equals_list_of_dicts(method):
    batch = make_batch()
    batch["photometric"] = [torch.full((4, NUM_PARAMS), -1.0) for _ in "qk"]
    for parameters in batch["photometric"]:
        parameters[:, :SIGMA] = torch.tensor([1.0, 1.0, 1.0, 0.0])
        parameters[:, SIGMA] = torch.tensor([0.0, 0.5, 1.0, 1.5])
    images = [
        {key: [value[0][i], value[1][i]] for key, value in batch.items()}
        for i in range(len(batch["views"][0]))
    ]
    one, two = make(method), make(method)
    assert backward(one, batch) == backward(two, images)
    without = backward(make(method), {"views": batch["views"]})
    assert without != backward(make(method), batch)  # blur has been applied


@pytest.mark.parametrize("method", [MoCo, DenseCL, SimSiam])
def test_evaluation_returns_the_map_of_each_image(method):
    model = make(method).eval()
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (10, 7))]
    with torch.no_grad():
        outputs = model([{"image": image} for image in images])
    assert [output["features"].shape for output in outputs] == [(6, 8, 8), (6, 5, 4)]
    alone = model([{"image": images[0]}])
    assert_close(alone[0]["features"], outputs[0]["features"])


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (MoCo, {"moco/loss_global_unweighted", "moco/accuracy", "moco/positive_cosine", "moco/queue_filled"}),
        (
            DenseCL,
            {
                "densecl/loss_global_unweighted",
                "densecl/loss_dense_unweighted",
                "densecl/accuracy",
                "densecl/dense_accuracy",
                "densecl/negative_cosine",
                "densecl/dense_positive_cosine",
                "densecl/match_distinct",
                "densecl/queue_filled",
            },
        ),
        (SimSiam, {"simsiam/feature_std", "simsiam/effective_rank", "simsiam/positive_cosine"}),
    ],
)
def test_health_metrics(method, names):
    model = make(method)
    with EventStorage() as storage:
        losses = model(make_batch())
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert names <= set(latest)
    assert all(math.isfinite(value) for value in latest.values())
    if method is DenseCL:
        assert_close(latest["densecl/loss_dense_unweighted"] * 0.5, losses["loss_dense"].item())
        assert 1 / 64 <= latest["densecl/match_distinct"] <= 1


class HostReads(TorchDispatchMode):
    """Counts operations that read a device value on the host, or whose output size depends on one."""

    BLOCKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"}

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name in self.BLOCKING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_host_reads_are_seen():
    with HostReads() as reads:
        x = torch.arange(3.0)
        x[0].item()
        x[x > 1]
        x.nonzero()
    assert len(reads.seen) == 3


@pytest.mark.parametrize("skip", [None, False])
@pytest.mark.parametrize("method", [MoCo, DenseCL, SimSiam])
def test_no_host_synchronisation_in_a_step(method, skip):
    model = make(method, backbone=ConvBackbone(3, 6))
    batch = make_batch()
    batch["photometric"] = [torch.zeros(4, NUM_PARAMS) for _ in "qk"]
    flag = None if skip is None else torch.tensor(skip)
    with HostReads() as reads:
        sum(model(batch).values()).backward()
        if method is not SimSiam:
            model.after_optimizer_step(skip=flag)
    assert reads.seen == []


@pytest.mark.parametrize("method", [DenseCL, SimSiam])
def test_compiled_once_and_not_at_every_step(method):
    options = {} if method is SimSiam else {"shuffle_groups": 2}
    model = make(method, backbone=ConvBackbone(3, 6), **options)
    plain = copy.deepcopy(model)
    counter = CompileCounter()
    model.compile(backend=counter)
    counts = []
    with TensorEventStorage() as storage:
        for storage.iter in range(4):
            batch = make_batch(count=8, seed=storage.iter)
            assert backward(model, batch) == pytest.approx(backward(plain, batch), abs=1e-5)
            counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts[3] == counts[0]


def test_initial_loss_of_a_resnet():
    """Equal views through equal encoders are positives of cosine 1; K random keys are the negatives."""
    torch.manual_seed(0)
    length, dim, temperature = 4096, 128, 0.2
    model = DenseCL(
        backbone=build_resnet(18, init="fan_in"),
        projection_head=GlobalProjectionHead(in_channels=512, hidden_channels=512, out_channels=dim),
        dense_projection_head=DenseProjectionHead(in_channels=512, hidden_channels=512, out_channels=dim),
        queue_size=length,
        loss_weight=0.5,
        **PIXELS,
    )
    view = make_batch(count=4, size=64)["views"][0]
    losses = model({"views": [view, view]})
    expected = math.log(1 + length * math.exp(1 / (2 * dim * temperature**2)) / math.exp(1 / temperature))
    assert abs(losses["loss_global"].item() - 0.5 * expected) < 0.1
    assert abs(losses["loss_dense"].item() - 0.5 * expected) < 0.1


def test_batch_must_divide_the_queue():
    model = make(MoCo)  # queue of 16
    for fits in (1, 8, 16):
        model.validate_batch(fits, 1)
    with pytest.raises(ConfigError, match=r"model\.queue_size=16 .* 6 keys .* use model\.queue_size=18"):
        model.validate_batch(6, 2)
    with pytest.raises(ConfigError, match=r"32 keys .* use model\.queue_size=32"):
        model.validate_batch(32, 1)
    with pytest.raises(ConfigError, match="two keys per image"):
        make(MoCo, symmetric=True).validate_batch(16, 1)


def test_a_queue_beyond_the_data_set_is_warned_about_once(caplog):
    with caplog.at_level(logging.WARNING):
        make(MoCo, dataset_size=16)
        assert not caplog.records
        make(DenseCL, dataset_size=15).check_dataset(15)
    assert len(caplog.records) == 1
    assert "model.queue_size=16 is larger than the data set (15 images)" in caplog.text


def test_shuffling_in_one_process_is_warned_about_once(caplog):
    with caplog.at_level(logging.WARNING):
        make(MoCo)(make_batch())  # no batch norm, nothing to say
        assert not caplog.records
        model = make(MoCo, backbone=ConvBackbone(3, 6))
        for _ in range(3):
            model(make_batch())
        make(MoCo, backbone=ConvBackbone(3, 6), shuffle_groups=2)(make_batch())  # shuffles
    assert [record.message.split(" does")[0] for record in caplog.records] == ["Shuffling batch norm"]


def test_groups_must_divide_the_batch():
    with pytest.raises(ConfigError, match=r"model\.shuffle_groups=3 does not cut the 4 images"):
        make(MoCo, shuffle_groups=3)(make_batch(count=4))
    with pytest.raises(ConfigError, match="equal parts of two or more"):
        make(MoCo, shuffle_groups=4)(make_batch(count=4))
    with pytest.raises(ConfigError, match=r"model\.shuffle_groups=0"):
        make(MoCo, shuffle_groups=0)


@pytest.mark.parametrize("groups", [1, 2])
def test_running_statistics_of_groups_are_usable(groups):
    """Many steps on one batch: what evaluation normalises with is what training saw."""
    model = make(MoCo, backbone=ConvBackbone(3, 6), shuffle_groups=groups)
    batch = make_batch(count=8)
    for _ in range(60):
        model(batch)
        model._pending["queue"].clear()
    images = model.normalize(model.collect_views(batch)[0])
    seen = model.backbone.conv(images)
    assert_close(model.backbone.bn.running_mean, seen.mean((0, 2, 3)), rtol=0, atol=0.02)


def test_wrong_values_name_their_key():
    with pytest.raises(ConfigError, match=r"model\.in_feature='res5': the backbone returns map"):
        make(MoCo, in_feature="res5")
    with pytest.raises(ConfigError, match=r"model\.loss_weight=1\.5"):
        make(DenseCL, loss_weight=1.5)
    with pytest.raises(ConfigError, match=r"model\.momentum=2"):
        make(MoCo, momentum=2)
    with pytest.raises(ConfigError, match=r"model\.temperature=0"):
        make(MoCo, temperature=0)
    with pytest.raises(ConfigError, match=r"model\.queue_size=-8"):
        make(MoCo, queue_size=-8)
    with pytest.raises(ConfigError, match="num_grid=0"):
        make(DenseCL, num_grid=0)
    wide = GlobalProjectionHead(in_channels=2048, out_channels=8)
    with pytest.raises(ConfigError, match=r"model\.projection_head\.in_channels=2048.*set it to 6"):
        make(MoCo, projection_head=wide)
    with pytest.raises(ConfigError, match="one image, which has no batch statistics"):
        make(SimSiam)(make_batch(count=1))
    with pytest.raises(ConfigError, match="takes two views per image, and the batch has 1"):
        make(SimSiam)({"views": make_batch()["views"][:1]})
    with pytest.raises(ConfigError, match="the batch has 0"):
        make(SimSiam)([{"image": torch.zeros(3, 8, 8)}])


@pytest.mark.parametrize("method", [MoCo, DenseCL, SimSiam])
def test_equal_views_and_black_images_stay_finite(method):
    model = make(method, backbone=ConvBackbone(3, 6))
    for images in (make_batch()["views"][0], torch.zeros(4, 3, 16, 16, dtype=torch.uint8)):
        with EventStorage() as storage:
            losses = backward(model, {"views": [images, images]})
        assert all(map(math.isfinite, losses.values()))
        assert all(grad.isfinite().all() for grad in gradients(model).values())
        assert all(math.isfinite(value) for value, _ in storage.latest().values())


@pytest.mark.parametrize("collapsed", [False, True])
def test_collapse_is_visible(collapsed):
    model = make(SimSiam)
    if collapsed:
        nn.init.zeros_(model.backbone.conv.weight)
    with EventStorage() as storage:
        model(make_batch())
        assert (storage.latest()["simsiam/backbone_std"][0] < 1e-3) == collapsed


def test_queues_differ_from_each_other():
    model = make(DenseCL)
    assert not torch.equal(model.queue, model.dense_queue)
