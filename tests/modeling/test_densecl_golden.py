"""One-process golden numbers of DenseCL, MoCo v2 and SimSiam: every recorded quantity to 1e-5."""

import pytest
import torch
from densecl_golden import (
    TOLERANCE,
    ConvBackbone,
    IdentityBackbone,
    assert_state,
    build,
    head_sizes,
    load,
    load_state,
    state,
)
from torch.testing import assert_close

from densessl.layers.batch_shuffle import ShufflePlan
from densessl.losses.cosine import negative_cosine
from densessl.losses.dense_info_nce import match_dense
from densessl.losses.info_nce import info_nce, queue_logsumexp
from densessl.modeling.heads import (
    DenseProjectionHead,
    GlobalProjectionHead,
    SimSiamPredictor,
    SimSiamProjector,
)

torch.set_num_threads(1)


def grads(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["densecl_step_s0", "densecl_step_s1"])
def test_densecl_step(name):
    data = load(name)
    channels = data["in/feat_q"].shape[1]
    model = build(data, IdentityBackbone(channels), "in/neck_q.", dense=True, image_channels=channels)
    load_state(model, state(data, "in/"))
    feature = data["in/feat_q"].requires_grad_()
    model.update_momentum_encoder()
    losses = model({"views": [feature, data["in/feat_k"]]})
    sum(losses.values()).backward()
    model.enqueue_pending()

    assert_close(losses["loss_global"], data["out/loss_contra_single"], **TOLERANCE, check_dtype=False)
    assert_close(losses["loss_dense"], data["out/loss_contra_dense"], **TOLERANCE, check_dtype=False)
    assert_close(feature.grad, data["out/grad_feat_q"], **TOLERANCE)
    expected = state({k.replace("grad_neck_q", "neck_q"): v for k, v in data.items()}, "out/")
    for key, grad in grads(model).items():
        assert_close(grad, expected[key], **TOLERANCE)
    after = {key.replace("_after", ""): value for key, value in data.items() if "_after" in key}
    assert_state(model, state(after, "out/"))


@pytest.mark.parametrize("name", ["densecl_step_s0", "densecl_step_s1"])
def test_densecl_embeddings_and_match(name):
    data = load(name)
    channels = data["in/feat_q"].shape[1]
    model = build(data, IdentityBackbone(channels), "in/neck_q.", dense=True, image_channels=channels)
    load_state(model, state(data, "in/"))
    model.update_momentum_encoder()
    query, key = model.embed_query(data["in/feat_q"]), model.embed_key(data["in/feat_k"])
    for side, embeddings, parts in (
        ("q", query, ("global", "dense")),
        ("k", key, ("global", "dense", "pooled")),
    ):
        for part in parts:
            assert_close(embeddings[part], data[f"out/{side}_{part}"], **TOLERANCE)
    assert torch.equal(match_dense(query["grid"], key["grid"]), data["out/match_index"])


@pytest.mark.parametrize("name", ["mocov2_step_s0", "mocov2_step_s1"])
def test_moco_step(name):
    data = load(name)
    channels = data["in/feat_q"].shape[1]
    model = build(data, IdentityBackbone(channels), "in/neck_q.", dense=False, image_channels=channels)
    load_state(model, state(data, "in/"))
    feature = data["in/feat_q"].requires_grad_()
    model.update_momentum_encoder()
    losses = model({"views": [feature, data["in/feat_k"]]})
    losses["loss_global"].backward()
    model.enqueue_pending()

    assert list(losses) == ["loss_global"]
    assert_close(losses["loss_global"], data["out/loss_contra"], **TOLERANCE, check_dtype=False)
    assert_close(feature.grad, data["out/grad_feat_q"], **TOLERANCE)
    expected = state({k.replace("grad_neck_q", "neck_q"): v for k, v in data.items()}, "out/")
    for key, grad in grads(model).items():
        assert_close(grad, expected[key], **TOLERANCE)
    after = {key.replace("_after", ""): value for key, value in data.items() if "_after" in key}
    assert_state(model, state(after, "out/"))


@pytest.mark.parametrize("name", ["densecl_traj_s0", "densecl_traj_s1"])
def test_densecl_trajectory(name):
    """Several optimiser steps through `after_optimizer_step`, the order that the trainer uses."""
    data = load(name)
    images = data["in/images"]  # (steps, N, 2, C, H, W)
    width = data["in/init.encoder_q.0.conv.weight"].shape[0]
    backbone = ConvBackbone(images.shape[3], width)
    model = build(data, backbone, "in/init.encoder_q.1.", dense=True, image_channels=images.shape[3])
    load_state(model, state(data, "in/init."))
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=data["hp/lr"],
        momentum=data["hp/sgd_momentum"],
        weight_decay=data["hp/weight_decay"],
    )
    for step, batch in enumerate(images):
        model.loss_weight = data["out/loss_lambda"][step].item()
        losses = model({"views": [batch[:, 0], batch[:, 1]]})
        assert_close(losses["loss_global"].item(), data["out/loss_contra_single"][step].item(), **TOLERANCE)
        assert_close(losses["loss_dense"].item(), data["out/loss_contra_dense"][step].item(), **TOLERANCE)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.enqueue_pending()
        if step < len(images) - 1:  # the reference averages at the start of the next step
            model.update_momentum_encoder()
    assert_state(model, state(data, "out/final."))


def test_groups_of_one_process_are_the_ranks(monkeypatch):
    """The recorded step of two processes with shuffled batch norm, in one process with two groups."""
    data = load("densecl_dist2_s0")
    images = data["in/images"].flatten(0, 1)  # (W * N, 2, C, H, W), rank by rank
    width = data["in/init.encoder_q.0.conv.weight"].shape[0]
    backbone = ConvBackbone(images.shape[2], width)
    model = build(data, backbone, "in/init.encoder_q.1.", dense=True, image_channels=images.shape[2])
    load_state(model, state(data, "in/init."))
    model.shuffle_groups = 2
    monkeypatch.setattr(model.batch_shuffle, "draw", lambda rows: ShufflePlan(data["in/idx_shuffle"], 0, 1))
    model.update_momentum_encoder()
    losses = model({"views": [images[:, 0], images[:, 1]]})
    model.enqueue_pending()
    for ours, theirs in (("loss_global", "loss_contra_single"), ("loss_dense", "loss_contra_dense")):
        assert_close(losses[ours], data[f"out/{theirs}"].mean(), **TOLERANCE, check_dtype=False)
    final = state(data, "out/final.")
    assert_state(model, {key: value for key, value in final.items() if "num_batches" not in key})


@pytest.mark.parametrize("name", ["densecl_neck_s0", "densecl_neck_s1"])
def test_heads_with_and_without_grid(name):
    data = load(name)
    sizes = head_sizes(data, "in/")
    weights = state({key.replace("in/", "in/neck_q."): value for key, value in data.items()}, "in/")
    grids = {key.split("/")[1].removeprefix("grid_") for key in data if key.startswith("out/")}
    assert len(grids) == 3
    for grid in grids:
        head = GlobalProjectionHead(**sizes)
        dense_head = DenseProjectionHead(**sizes, num_grid=None if grid == "None" else int(grid))
        for module, prefix in ((head, "projection_head."), (dense_head, "dense_projection_head.")):
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            )
        dense, pooled_map = dense_head(data["in/x"])
        assert_close(head(data["in/x"]), data[f"out/grid_{grid}/global"], **TOLERANCE)
        assert_close(dense, data[f"out/grid_{grid}/dense"], **TOLERANCE)
        assert_close(dense.mean(2), data[f"out/grid_{grid}/pooled"], **TOLERANCE)
        assert pooled_map.shape == (*data["in/x"].shape[:2], dense.shape[2])


@pytest.mark.parametrize("name", ["contrastive_head_s0", "contrastive_head_s1"])
def test_contrastive_head(name):
    """Logits given as such: with an orthonormal queue the coordinates of a query are its logits."""
    data = load(name)
    negative, positive = data["in/neg"], data["in/pos"]
    rows, length = negative.shape
    basis = torch.eye(length + 1)
    query = torch.cat([negative, positive], 1).requires_grad_()
    for index, temperature in enumerate(data["hp/temperatures"].tolist()):
        query.grad = None
        loss = info_nce(query, basis[length].expand(rows, -1), basis[:length], temperature)
        loss.backward()
        assert_close(loss.item(), data["out/loss"][index].item(), **TOLERANCE)
        assert_close(query.grad[:, :length], data["out/grad_neg"][index], **TOLERANCE)
        assert_close(query.grad[:, length:], data["out/grad_pos"][index], **TOLERANCE)
        lse, hardest = queue_logsumexp(query.detach(), basis[:length], temperature, chunk_elements=7)
        assert_close(lse, torch.logsumexp(negative / temperature, 1), **TOLERANCE)
        assert_close(hardest, negative.amax(1), **TOLERANCE)


def test_simsiam_step():
    data = load("simsiam_step_s0")
    projector = SimSiamProjector(in_channels=10, out_channels=8)
    predictor = SimSiamPredictor(channels=8, hidden_channels=5)
    parts = ((projector, "encoder.fc."), (predictor, "predictor."))
    for module, prefix in parts:
        values = {
            k.removeprefix(f"in/state.{prefix}"): v for k, v in data.items() if f"in/state.{prefix}" in k
        }
        module.mlp.load_state_dict(values)
    z1, z2 = (projector(data[f"in/x{view}"][:, :, None, None]) for view in (1, 2))
    p1, p2 = predictor(z1), predictor(z2)
    loss = 0.5 * (negative_cosine(p1, z2) + negative_cosine(p2, z1))
    loss.backward()
    for name, value in (("z1", z1), ("z2", z2), ("p1", p1), ("p2", p2), ("loss", loss)):
        assert_close(value, data[f"out/{name}"], **TOLERANCE, check_dtype=False)
    for module, prefix in parts:
        for name, parameter in module.mlp.named_parameters():
            if prefix + name == "encoder.fc.6.bias":
                assert parameter.grad is None
                assert not parameter.requires_grad
            else:
                assert_close(parameter.grad, data[f"out/grad.{prefix}{name}"], **TOLERANCE)
        for name, buffer in module.mlp.named_buffers():
            assert_close(buffer, data[f"out/state_after.{prefix}{name}"], **TOLERANCE)
