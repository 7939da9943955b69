"""PiCIE's epoch against the recorded one; labels in one file; what a run needs to go on."""

import errno

import numpy as np
import pytest
import torch
from cluster_golden import golden, tensors
from cluster_toy import make_hook, make_model

from densessl.checkpoint import files
from densessl.clustering.kmeans import InitialPoints, assign_clusters
from densessl.clustering.labels import LabelFile, remove_other_labels
from densessl.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from densessl.losses.cluster_ce import balance_weights
from densessl.modeling.heads import ClusterClassifier


def given_start(monkeypatch, centroids: list[np.ndarray]) -> None:
    """Lloyd's result is recorded: it depends on the library's seed."""
    calls = iter(centroids)

    def cluster(self, num_clusters, iterations):
        start = next(calls)
        points = torch.from_numpy(np.concatenate(list(self._points.values())))
        scores = -torch.cdist(points.double(), torch.from_numpy(start).double()).square()
        counts = torch.bincount(scores.argmax(1), minlength=num_clusters)
        return start, counts.double().numpy(), float(-scores.amax(1).mean())

    monkeypatch.setattr(InitialPoints, "cluster", cluster)


def test_recorded_epoch(monkeypatch, tmp_path):
    arrays = golden("picie_epoch_s0")
    model = make_model(resolution=int(arrays["hp/res1"]), alignment="published")
    model.backbone.conv.weight.data.copy_(torch.from_numpy(arrays["in/W0"]))
    model.backbone.conv.bias.data.copy_(torch.from_numpy(arrays["in/b0"]))
    scale, place, flip = tensors(arrays, "in/rscale", "in/rcrop", "in/flip_p")
    crops = torch.cat([scale[:, None], place, (flip < 0.5).double()[:, None]], dim=1)
    images = tensors(arrays, "in/image_view1", "in/image_view2")

    def recorded_view(batch, view):
        return images[view][batch["index"]], crops[batch["index"]]

    monkeypatch.setattr(model, "prepare_view", recorded_view)
    given_start(monkeypatch, [arrays["in/init_centroids1"], arrays["in/init_centroids2"]])
    hook = make_hook(
        model,
        tmp_path,
        batch_size=int(arrays["hp/batch_size_cluster"]),
        init_batches=int(arrays["hp/num_init_batches"]),
        batches_per_update=int(arrays["hp/num_batches"]),
        points_per_image=None,
    )
    monkeypatch.setattr(hook.trainer.data_loader.sampler.order, "indices", lambda epoch: arrays["in/order"])
    hook.before_train()
    hook.before_step()

    everything = list(range(8))
    for view in (0, 1):
        known = arrays[f"out/centroids{view + 1}"]
        assert model.centroids[view].numpy() == pytest.approx(known, abs=1e-6)
        assert np.array_equal(model.read_labels(view, everything).numpy(), arrays[f"out/label{view + 1}"])
        weight = balance_weights(model.cluster_counts[view])
        assert weight.numpy() == pytest.approx(arrays[f"out/weight{view + 1}"], abs=1e-7)
        loss = hook.trainer.storage.history(f"cluster/kmeans_loss_{view + 1}").latest()
        assert loss == pytest.approx(arrays["out/kmeans_loss"][view], abs=1e-6)
    losses = model({"index": everything})
    assert float(2 * losses["loss_within"].detach()) == pytest.approx(float(arrays["out/within"]), abs=1e-6)
    assert float(2 * losses["loss_across"].detach()) == pytest.approx(float(arrays["out/across"]), abs=1e-6)
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(float(arrays["out/total"]), abs=1e-6)
    total.backward()
    conv = model.backbone.conv
    assert conv.weight.grad.numpy() == pytest.approx(arrays["out/grad_W"], rel=1e-4, abs=1e-7)
    assert conv.bias.grad.numpy() == pytest.approx(arrays["out/grad_b"], rel=1e-4, abs=1e-7)
    torch.optim.Adam(conv.parameters(), lr=float(arrays["hp/lr"])).step()
    assert conv.weight.detach().numpy() == pytest.approx(arrays["out/W_after_adam"], abs=1e-5)
    assert conv.bias.detach().numpy() == pytest.approx(arrays["out/b_after_adam"], abs=1e-5)


def test_labels_are_those_of_the_final_centroids(tmp_path):
    """10 images, clustered by fours: the last two move the centroids too, and all are labelled."""
    model = make_model(clusters=3)
    hook = make_hook(model, tmp_path, images=10, batch_size=4, init_batches=1)
    hook.cluster(0)
    dataset = hook.trainer.data_loader.dataset
    model.eval()
    for index in (0, 9):
        batch = hook.trainer.data_loader.collate_fn([dataset[(0, index)]])
        for view in (0, 1):
            with torch.no_grad():
                expected = assign_clusters(model.encode_view(batch, view), model.centroids[view])
            assert torch.equal(model.read_labels(view, [index]).long(), expected)
    assert model.cluster_counts.sum(1).tolist() == [10 * 36, 10 * 36]
    labels = model.read_labels(1, range(10))
    assert labels.dtype == torch.uint8
    counts = torch.bincount(labels.flatten().long(), minlength=3)
    assert counts.tolist() == model.cluster_counts[1].tolist()


def test_three_decodings_of_an_image_per_epoch(tmp_path, monkeypatch):
    model = make_model(clusters=3)
    hook = make_hook(model, tmp_path, images=8, batch_size=4, init_batches=1)
    loader, seen = hook.trainer.data_loader, []
    mapper = loader.dataset.mapper
    original = type(mapper).__call__
    monkeypatch.setattr(
        type(mapper), "__call__", lambda self, r, rng: seen.append(r["image_id"]) or original(self, r, rng)
    )
    hook.before_train()
    hook.before_step()
    batches = iter(loader)
    for _ in range(loader.steps_per_epoch):
        assert sum(model(next(batches)).values()).isfinite()
    batches.close()
    assert sorted(seen) == sorted(list(range(8)) * 3)


def test_random_numbers_and_modes_are_left_alone(tmp_path):
    model = make_model(clusters=3)
    hook = make_hook(model, tmp_path, batch_size=4, init_batches=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hook.cluster(0)
    assert torch.equal(torch.rand(3), expected)
    assert model.training


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_in_clustering(tmp_path, mode):
    model = make_model(clusters=3)
    model.backbone.conv = torch.nn.Sequential(model.backbone.conv, torch.nn.BatchNorm2d(8))
    norm = model.backbone.conv[1]
    model.backbone.output_shape = lambda: {"p2": None}
    make_hook(model, tmp_path, batch_size=4, init_batches=1, batch_norm=mode).cluster(0)
    # pass 1 of two batches and two views; pass 2 is always in evaluation mode
    assert int(norm.num_batches_tracked) == (4 if mode == "train" else 0)


def test_mdc_starts_its_classifier_anew(tmp_path):
    head = ClusterClassifier(in_channels=8, num_clusters=3)
    model = make_model(clusters=3, num_views=1, classifier=head)
    hook = make_hook(model, tmp_path, batch_size=4, init_batches=1)
    hook.before_step()
    first = head.predictor.weight.detach().clone()
    batches = iter(hook.trainer.data_loader)
    losses = model(next(batches))
    batches.close()
    assert list(losses) == ["loss_cluster"]
    losses["loss_cluster"].backward()
    optimizer = hook.trainer.optimizer
    optimizer.step()
    assert head.predictor.weight in optimizer.state
    hook.trainer.iter = 2
    hook.before_step()
    assert head.predictor.weight not in optimizer.state
    assert model.backbone.conv.weight in optimizer.state
    assert not torch.equal(head.predictor.weight, first)
    assert not head.predictor.bias.any()


def test_stopped_within_an_epoch_the_labels_must_be_there(tmp_path):
    model = make_model(clusters=3)
    hook = make_hook(model, tmp_path, batch_size=4, init_batches=1)
    hook.before_step()
    state, labels = hook.state_dict(), model.read_labels(0, range(8)).clone()

    def resumed():
        other = make_hook(make_model(clusters=3), tmp_path, batch_size=4, init_batches=1)
        other.load_state_dict(state)
        other.trainer.start_iter = 1
        other.before_train()
        return other.trainer.module.read_labels(0, range(8))

    assert torch.equal(resumed(), labels)
    path = LabelFile(str(tmp_path), 0).path
    changed = np.load(path)
    changed[0, 0, 0, 0] += 1
    np.save(path, changed)
    with pytest.raises(CheckpointError, match="does not hold the labels"):
        resumed()
    (tmp_path / "cluster_labels_0000.npy").unlink()
    with pytest.raises(CheckpointError, match="cluster_labels_0000.npy cannot be read"):
        resumed()


def test_label_files_stay_while_a_checkpoint_needs_them(tmp_path, monkeypatch):
    hook = make_hook(make_model(clusters=3), tmp_path, batch_size=4, init_batches=1)  # two steps per epoch
    saved = []
    monkeypatch.setattr("densessl.engine.cluster_hook.list_checkpoints", lambda folder: saved)

    def clustered(epoch):
        hook.cluster(epoch)
        return sorted(path.name for path in tmp_path.glob("*.npy*"))

    assert clustered(0) == ["cluster_labels_0000.npy"]
    saved.append((1, files.checkpoint_name(1)))  # within epoch 0
    assert clustered(1) == ["cluster_labels_0000.npy", "cluster_labels_0001.npy"]
    saved[:] = [(4, files.checkpoint_name(4))]  # at the end of epoch 1
    assert clustered(2) == ["cluster_labels_0002.npy"]
    (tmp_path / "cluster_labels_0003.npy.partial").touch()  # of a run that was killed
    remove_other_labels(str(tmp_path), keep={2, 3})
    assert [path.name for path in tmp_path.glob("*.npy*")] == ["cluster_labels_0002.npy"]


def test_no_room_or_no_common_folder_for_labels(tmp_path, monkeypatch):
    labels = LabelFile(str(tmp_path / "elsewhere"), 0)
    with pytest.raises(ConfigError, match="a folder that all machines share"):
        labels.open_partial()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match=r"cluster_labels_0003.npy.partial \(0.6 MB\): No space left"):
        LabelFile(str(tmp_path), 3).create(2, 50, (80, 80))


def test_fewer_batches_than_initial_ones(tmp_path):
    hook = make_hook(make_model(clusters=3), tmp_path, batch_size=4, init_batches=20, points_per_image=None)
    hook.cluster(0)
    model = hook.trainer.module
    assert model.centroids.isfinite().all()
    assert model.centroids.abs().sum(2).all()


def test_features_that_are_not_finite_stop_the_run(tmp_path):
    hook = make_hook(make_model(clusters=3), tmp_path, batch_size=4, init_batches=1)
    hook.trainer.module.backbone.conv.bias.data[0] = torch.nan
    with pytest.raises(NonFiniteError, match="first batches"):
        hook.cluster(0)


@pytest.mark.parametrize(("kwargs", "message"), [({"batch_norm": "both"}, "batch_norm='both'"),
                                                 ({"init_batches": 0}, "at least 1")])  # fmt: skip
def test_mistakes_in_the_hook(tmp_path, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_hook(make_model(), tmp_path, **kwargs)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"clusters": 256}, "num_clusters=256"), ({"num_views": 3}, "num_views=3"),
    ({"alignment": "near"}, "alignment='near'"),
    ({"classifier": ClusterClassifier(in_channels=8, num_clusters=5)}, "takes 1"),
    ({"balance": "odd"}, "balance='odd'"), ({"in_feature": "p3"}, "in_feature='p3'"),
])  # fmt: skip
def test_mistakes_in_the_model(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_model(**kwargs)


def test_what_does_not_fit_together(tmp_path):
    model = make_model()
    hook = make_hook(model, tmp_path, images=3, batch=4)
    with pytest.raises(ConfigError, match="3 images, batch 4"):
        hook.before_train()
    hook.trainer.module = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="Linear takes no clusters"):
        hook.before_train()
    with pytest.raises(ConfigError, match="no clusters yet"):
        model({})
    with pytest.raises(ConfigError, match="side 40, model.resolution=24"):
        model.prepare_view({"image": torch.zeros(1, 3, 40, 40, dtype=torch.uint8)}, 0)


def test_inference_has_scores_of_each_classifier():
    model = make_model().eval()
    model.centroids.normal_(generator=torch.Generator().manual_seed(0))
    images = torch.randint(0, 256, (2, 3, 24, 24), generator=torch.Generator().manual_seed(1)).byte()
    outputs = model([{"image": image} for image in images])
    assert len(outputs) == 2
    for view in (0, 1):
        scores = outputs[1]["sem_seg"][f"view{view + 1}"]
        assert scores.shape == (5, 6, 6)
        features = model.backbone((images[1:].float() - 127.5) / 60)["p2"]
        features = features / features.norm(dim=1, keepdim=True)
        expected = torch.einsum("chw,kc->khw", features[0], model.centroids[view])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    head = ClusterClassifier(in_channels=8, num_clusters=5)
    one = make_model(num_views=1, classifier=head).eval()
    (only,) = one([{"image": images[0]}])
    assert only["sem_seg"]["view1"].shape == (5, 6, 6)
    assert set(only["sem_seg"]) == {"view1"}


def test_final_clusterings_leave_the_training_alone(tmp_path):
    model = make_model(clusters=3, num_fresh=2)
    hook = make_hook(model, tmp_path, batch_size=4, init_batches=1, points_per_image=5)
    hook.cluster(0)
    hook.trainer.iter, hook.trainer.max_iter = 1, 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = model.read_labels(0, range(8))
    hook.after_step()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["fresh_centroids"]
    assert torch.equal(model.read_labels(0, range(8)), labels)
    assert model.training
    assert not torch.equal(*model.fresh_centroids)  # two seeds
    loader = hook.trainer.data_loader
    model.eval()
    batch = loader.collate_fn([loader.dataset[(0, index)] for index in range(8)])
    with torch.no_grad():
        features = model.encode_plain(batch)
        for centroids in model.fresh_centroids:
            nearest = assign_clusters(features, centroids)
            assert len(nearest.unique()) == 3
        outputs = model([{"image": batch["image"][0]}])[0]["sem_seg"]
    assert set(outputs) == {"view1", "view2", "fresh1", "fresh2"}
    small = torch.nn.functional.interpolate(batch["image"].float(), (24, 24), mode="bilinear", antialias=True)
    expected = model.backbone((small - 127.5) / 60)["p2"]
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected.detach(), dim=1))


def test_distance_of_the_views_weighs_in(tmp_path):
    model = make_model(clusters=3, loss_distance_weight=0.5)
    hook = make_hook(model, tmp_path, batch_size=4, init_batches=1)
    hook.before_step()
    batches = iter(hook.trainer.data_loader)
    batch = next(batches)
    batches.close()
    weighted = model(batch)
    model.loss_distance_weight = 0.0
    plain = model(batch)
    distance = torch.nn.functional.mse_loss(*(model.encode_view(batch, view) for view in (0, 1)))
    expected = (sum(plain.values()) + distance) / 2
    assert float(sum(weighted.values()).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
