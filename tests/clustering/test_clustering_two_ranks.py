"""Clustering, its evaluation and a resumed run in two gloo processes."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cluster_golden import golden, tensors
from cluster_runs import final_state, train, write_pictures
from cluster_toy import make_hook, make_model

from densessl.clustering.kmeans import InitialPoints, MiniBatchKMeans
from densessl.evaluation.cluster_seg_evaluation import ClusterSegEvaluator


def cluster(rank: int, world_size: int) -> dict:
    """Initial clustering on two batches of five images, then three updates; the last batch has one image."""
    features = torch.randn(21, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    features = F.normalize(features, dim=1)
    initial = InitialPoints(points_per_image=9, seed=1)
    for batch in (range(5), range(5, 10)):
        mine = list(batch)[rank::world_size]
        initial.add(features[mine], mine)
    centroids, counts, loss = initial.cluster(4)
    kmeans = MiniBatchKMeans(centroids, counts, loss)
    for batch in (range(10, 15), range(15, 20), range(20, 21)):
        kmeans.add(features[list(batch)[rank::world_size]])
    return {
        "initial": centroids.tolist(),
        "centroids": kmeans.centroids.tolist(),
        "counts": kmeans.counts.tolist(),
        "losses": kmeans.losses.tolist(),
    }


def epoch(folder: Path) -> dict:
    """The hook on 11 images, which two processes share unevenly, in batches of four."""
    folder.mkdir(exist_ok=True)
    model = make_model(clusters=3)
    hook = make_hook(model, folder, images=11, batch_size=4, init_batches=1)
    hook.cluster(0)
    labels = [model.read_labels(view, range(11)).flatten().tolist() for view in (0, 1)]
    return {
        "centroids": model.centroids.tolist(),
        "counts": model.cluster_counts.tolist(),
        "labels": labels,
        "state": hook.state_dict(),
    }


def evaluate(images: slice) -> dict:
    arrays = golden("eval_hungarian_s0")
    things = int(arrays["hp/num_things"])
    names = [f"c{index}" for index in range(int(arrays["hp/K"]))]
    scorer = ClusterSegEvaluator(names, is_thing=[i < things for i in range(len(names))], ignore_label=-1)
    for index, (label, prediction) in list(enumerate(zip(*tensors(arrays, "in/label", "in/pred"))))[images]:
        scorer.process([{"image_id": index, "sem_seg": label}], [{"sem_seg": prediction}])
    return scorer.evaluate()


def _one_of_two(rank: int, root: str) -> None:
    from detectron2.utils import comm

    torch.set_num_threads(1)
    rendezvous = f"file://{root}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    root = Path(root)
    # image 2 comes to both, as samplers that pad do it
    scores = evaluate(slice(0, 3) if rank == 0 else slice(2, None))
    results = {"cluster": cluster(rank, 2), "epoch": epoch(root / "two"), "scores": scores}
    (root / f"rank{rank}.json").write_text(json.dumps(results))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        train("picie", root / "whole", root / "pictures")
        # the ranks agree on stopping one step later, within the second epoch
        train("picie", root / "stopped", root / "pictures", stop_in_step=1)
        train("picie", root / "stopped", root / "pictures")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    write_pictures(tmp_path / "pictures")
    torch.multiprocessing.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    # k-means: as one process, and equal on both
    for kind, expected in {"cluster": cluster(0, 1), "epoch": epoch(tmp_path / "one")}.items():
        assert first[kind] == second[kind]
        for name in ("centroids", "counts"):
            assert np.array(first[kind][name]) == pytest.approx(np.array(expected[name]), abs=1e-6)
    assert first["cluster"]["initial"] == cluster(0, 1)["initial"]  # the same points in the same order
    assert np.array(first["cluster"]["losses"]) == pytest.approx(cluster(0, 1)["losses"], abs=1e-6)
    assert first["epoch"]["labels"] == expected["labels"]
    assert first["epoch"]["state"] == expected["state"]
    # evaluation: no image counts twice
    assert first["scores"] == evaluate(slice(None))
    assert second["scores"] == {}
    # a run stopped within its second epoch ends in the same bits
    whole, stopped = (final_state(tmp_path / name) for name in ("whole", "stopped"))
    assert len(whole["rng"]) == 2
    assert whole == stopped
