"""Run by test_classification_evaluation.py, once per rank: evaluators on shards equal those on everything."""

import json
import sys

import numpy as np
import torch
import torch.distributed as dist

from densessl.evaluation.classification_evaluation import ClassificationEvaluator
from densessl.evaluation.knn_evaluation import KNNEvaluator


def classification_data(count=23, classes=7):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(count, classes, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator).tolist()
    inputs = [{"image_id": f"i{index}", "label": label} for index, label in enumerate(labels)]
    return inputs, [{"scores": row} for row in scores]


def knn_data(references=60, queries=15, classes=5, dimensions=6):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, dimensions))
    labels = rng.integers(0, classes, references + queries)
    features = centres[labels] + rng.normal(size=(len(labels), dimensions))
    features[5] = features[4]  # equal cosines, on different ranks when split down the middle or by turns
    inputs = [
        {"index": index, "label": int(label), "is_query": index >= references}
        for index, label in enumerate(labels)
    ]
    return inputs, [{"features": torch.tensor(row, dtype=torch.float32)} for row in features]


def run(evaluator, inputs, outputs):
    evaluator.reset()
    for start in range(0, len(inputs), 4):
        evaluator.process(inputs[start : start + 4], outputs[start : start + 4])
    return evaluator.evaluate()


def main():
    dist.init_process_group("gloo")
    rank, answers = dist.get_rank(), {}
    inputs, outputs = classification_data()
    # image 0 comes to both ranks, as samplers that pad do it
    mine = [0, *range(1 + rank, len(inputs), 2)]
    answers["classification"] = run(
        ClassificationEvaluator((1, 2)), [inputs[i] for i in mine], [outputs[i] for i in mine]
    )
    inputs, outputs = knn_data()
    for kind in ("weighted", "plain"):
        mine = range(rank, len(inputs), 2)
        answers[f"knn_{kind}"] = run(
            KNNEvaluator((1, 3, 50), vote=kind), [inputs[i] for i in mine], [outputs[i] for i in mine]
        )
    # all queries on one rank, all references on the other
    mine = [i for i, record in enumerate(inputs) if record["is_query"] == bool(rank)]
    answers["knn_apart"] = run(KNNEvaluator((3,)), [inputs[i] for i in mine], [outputs[i] for i in mine])
    if rank == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(answers, file)
    else:
        assert all(answer == {} for answer in answers.values()), answers
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
