"""Accuracy and nearest neighbours: by hand, against slow loops, and in two processes."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from two_rank_evaluators import classification_data, knn_data, run

from densessl.errors import ConfigError
from densessl.evaluation.classification_evaluation import ClassificationEvaluator, places_of_classes
from densessl.evaluation.knn_evaluation import KNNEvaluator, vote


def test_top_k_by_hand():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5])
    assert places_of_classes(scores.expand(4, 4), torch.arange(4)).tolist() == [3, 0, 1, 2]
    assert places_of_classes(torch.tensor([[0.0, math.nan]]), torch.tensor([0])).tolist() == [-1]
    inputs = [{"image_id": i, "label": label} for i, label in enumerate((1, 2, 3, 0))]
    results = run(ClassificationEvaluator((1, 2, 3)), inputs, [{"scores": scores}] * 4)
    assert results == {"classification": {"top1": 25.0, "top2": 50.0, "top3": 75.0}}


def test_equal_scores_are_at_chance_and_nan_is_wrong(caplog):
    inputs = [{"image_id": i, "label": i % 4} for i in range(40)]
    results = run(ClassificationEvaluator((1,)), inputs, [{"scores": torch.zeros(4)}] * 40)
    assert results["classification"]["top1"] == 25.0
    results = run(ClassificationEvaluator((1, 4)), inputs, [{"scores": torch.full((4,), math.nan)}] * 40)
    assert results["classification"] == {"top1": 0.0, "top4": 0.0}
    assert "40 of 40 images have scores that are not numbers" in caplog.text


def test_heads_repetitions_and_nothing():
    outputs = [{"scores": {"res4": torch.tensor([1.0, 0.0]), "res5": torch.tensor([0.0, 1.0])}}] * 2
    inputs = [{"image_id": "a", "label": 0}, {"image_id": "b", "label": 1}]
    evaluator = ClassificationEvaluator((1,))
    evaluator.process(inputs[:1], outputs[:1])
    evaluator.process(inputs[:1], outputs[:1])  # again: counts once
    assert evaluator.evaluate() == {"classification": {"top1_res4": 100.0, "top1_res5": 0.0}}
    evaluator.process(inputs[1:], outputs[1:])
    assert evaluator.evaluate() == {"classification": {"top1_res4": 50.0, "top1_res5": 50.0}}
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert KNNEvaluator().evaluate() == {}


def slow_knn(inputs, outputs, k, temperature, kind):
    """Top-1 and top-5 of every query by loops over all reference images."""
    unit = [o["features"].double() / o["features"].double().norm() for o in outputs]
    reference = [i for i, record in enumerate(inputs) if not record["is_query"]]
    hits = []
    for query in (i for i, record in enumerate(inputs) if record["is_query"]):
        cosines = [(-float(unit[query] @ unit[i]), i) for i in reference]
        votes, first = {}, {}
        for place, (cosine, i) in enumerate(sorted(cosines)[:k]):
            label = inputs[i]["label"]
            votes[label] = votes.get(label, 0.0) + (
                math.exp(-cosine / temperature) if kind == "weighted" else 1
            )
            first.setdefault(label, place)
        order = sorted(votes, key=lambda label: (-votes[label], first[label]))
        own = inputs[query]["label"]
        hits.append((order[:1].count(own), order[:5].count(own)))
    return 100 * np.mean(hits, axis=0)


@pytest.mark.parametrize("kind", ["weighted", "plain"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_against_loops(kind, temperature):
    inputs, outputs = knn_data(references=80, queries=40, classes=8, dimensions=4)
    ks = (1, 4, 5, 20, 200)  # 200 are more than there are
    results = run(KNNEvaluator(ks, temperature, kind), inputs, outputs)["knn"]
    for k in ks:
        expected = slow_knn(inputs, outputs, k, temperature, kind)
        assert [results[f"top1_k{k}"], results[f"top5_k{k}"]] == pytest.approx(expected.tolist())
    assert results["top1_k5"] != results["top1_k200"]


def test_votes_by_hand():
    cosine = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    neighbours = np.array([[2, 0, 0, 2]])

    def places(kind, temperature=0.1):
        return [vote(cosine, neighbours, np.array([n]), temperature, kind)[0] for n in (0, 1, 2)]

    # plain: two votes each, class 2 is nearer; class 1 has none
    assert places("plain") == [1, 3, 0]
    assert places("weighted") == [1, 3, 0]  # e^9 + e^6 > e^8 + e^7
    cosine[0, 3] = -1.0
    assert places("plain") == [1, 3, 0]
    assert places("weighted", temperature=10.0) == [0, 3, 1]  # 1.083 + 1.073 > 1.094 + 0.905


@pytest.mark.parametrize(("kwargs", "message"), [({"k": ()}, "k="), ({"temperature": 0}, "temperature"),
                                                 ({"vote": "best"}, "weighted or plain")])  # fmt: skip
def test_knn_mistakes(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        KNNEvaluator(**kwargs)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("two_rank_evaluators.py")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "answer.json")],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    answers = json.loads((tmp_path / "answer.json").read_text())
    assert answers["classification"] == run(ClassificationEvaluator((1, 2)), *classification_data())
    for kind in ("weighted", "plain"):
        assert answers[f"knn_{kind}"] == run(KNNEvaluator((1, 3, 50), vote=kind), *knn_data())
    assert answers["knn_apart"] == run(KNNEvaluator((3,)), *knn_data())
