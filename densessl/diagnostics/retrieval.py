"""Segmentation by looking up: each cell takes its label from the most similar cells of labelled images.

"Towards In-Context Scene Understanding" (https://arxiv.org/abs/2306.01667), section 3.2: queries, keys and
values are cell features, features of a memory of labelled cells, and the label shares of those. k = 30
neighbours and temperature 0.02 as there and in vpariza/open-hummingbird-eval (`cross_attention`). Difference:
the memory holds every cell; the paper samples one that covers millions. C channels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.diagnostics.segmentation import confusion_matrix, mean_iou

NEIGHBOURS, TEMPERATURE = 30, 0.02


def retrieve_labels(
    query: Tensor,
    memory: Tensor,
    memory_shares: Tensor,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Attention of each query over its nearest cells in the memory.

    Args:
        query: (Q, C), any length.
        memory: (M, C), any length.
        memory_shares: (M, K) class shares of the memory's cells.
        neighbours: k; all cells where the memory has fewer.
        temperature: of the softmax over cosines.

    Returns:
        (Q, K) float32 class scores in [0, 1].
    """
    import faiss  # at call: 0.3 s

    query, memory = F.normalize(query.float(), dim=1), F.normalize(memory.float(), dim=1)
    k = min(neighbours, len(memory))
    cosine, index = faiss.knn(
        query.contiguous().numpy(), memory.contiguous().numpy(), k, metric=faiss.METRIC_INNER_PRODUCT
    )
    weights = torch.softmax(torch.from_numpy(cosine) / temperature, dim=1)  # (Q, k)
    return (weights[:, :, None] * memory_shares[torch.from_numpy(index)]).sum(1)


def retrieval_miou(
    query: Tensor,
    query_shares: Tensor,
    memory: Tensor,
    memory_shares: Tensor,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> float:
    """Mean IoU in percent of `retrieve_labels` on the queries; arguments as there."""
    labelled = memory_shares.sum(1) > 0
    scores = retrieve_labels(query, memory[labelled], memory_shares[labelled], neighbours, temperature)
    return mean_iou(confusion_matrix(scores.argmax(1), query_shares, query_shares.shape[1]))
