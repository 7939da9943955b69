"""Clustering and its evaluation: two gloo processes with halves of the data give what one gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cluster_golden import golden, tensors

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
    # image 2 comes to both, as samplers that pad do it
    scores = evaluate(slice(0, 3) if rank == 0 else slice(2, None))
    Path(root, f"rank{rank}.json").write_text(json.dumps(cluster(rank, 2) | {"scores": scores}))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    expected = cluster(0, 1)
    for name, values in expected.items():
        assert np.array(first[name]) == pytest.approx(np.array(values), abs=1e-6)
        assert first[name] == second[name]
    assert first["initial"] == expected["initial"]  # the same points in the same order
    assert first["scores"] == evaluate(slice(None))
    assert second["scores"] == {}
