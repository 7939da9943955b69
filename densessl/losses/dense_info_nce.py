"""Dense contrastive loss over matched positions, and the match.

"Dense Contrastive Learning for Self-Supervised Visual Pre-Training" (https://arxiv.org/abs/2011.09157),
sections 3.3 and 3.4; authors' code WXinlong/DenseCL, openselfsup/models/densecl.py:194-214. Letters: N
images, C backbone channels, S positions of the query map, R of the key map, D embedding, K queue length.
"""

import torch
from torch import Tensor

from densessl.losses.info_nce import info_nce_with_metrics
from densessl.losses.precision import at_least_float32


@torch.no_grad()
def match_dense(query_map: Tensor, key_map: Tensor) -> Tensor:
    """For each query position the key position of the same image with the highest cosine.

    Only the keys are normalised: the length of a query scales its whole row of similarities and cannot
    change the argmax. Computed in float32 under autocast too, since eight bits of mantissa make ties.

    Args:
        query_map: (N, C, S) backbone features of the query view.
        key_map: (N, C, R) backbone features of the key view.

    Returns:
        (N, S) int64 in [0, R).

    Raises:
        ValueError: the maps differ in images or channels.
    """
    if query_map.shape[:2] != key_map.shape[:2]:
        raise ValueError(f"maps {tuple(query_map.shape)} and {tuple(key_map.shape)} do not fit")
    with torch.autocast(query_map.device.type, enabled=False):
        query_map, key_map = at_least_float32(query_map), at_least_float32(key_map)
        similarity = query_map.transpose(1, 2) @ key_map  # (N, S, R)
        # 1e-12: as torch.nn.functional.normalize, which the authors use
        similarity /= key_map.norm(dim=1, keepdim=True).clamp_(min=1e-12)
        return similarity.argmax(2)


def distinct_match_share(match: Tensor, num_keys: int) -> Tensor:
    """Mean over images of (distinct matched key positions) / S; 1/S when all positions share one key.

    Args:
        match: (N, S) int64 from `match_dense`.
        num_keys: R.
    """
    hit = match.new_zeros(match.shape[0], num_keys, dtype=torch.float32)
    hit.scatter_(1, match, 1.0)
    return hit.sum(1).mean() / match.shape[1]


def dense_info_nce(query: Tensor, key: Tensor, match: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of every query position with its matched key position as the positive.

    Args:
        query: (N, D, S) unit vectors along D; the gradient flows here.
        key: (N, D, R) unit vectors along D.
        match: (N, S) int64 in [0, R).
        queue: (K, D) pooled dense keys of other images, unit vectors, constant.
        temperature: T.

    Returns:
        Scalar: the mean over N * S rows, in float32.
    """
    return dense_info_nce_with_metrics(query, key, match, queue, temperature)[0]


def dense_info_nce_with_metrics(
    query: Tensor, key: Tensor, match: Tensor, queue: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """`dense_info_nce` and the health numbers of `info_nce_with_metrics` over the N * S rows."""
    dim = query.shape[1]
    positive = key.gather(2, match[:, None, :].expand(-1, dim, -1))  # (N, D, S)
    return info_nce_with_metrics(_rows(query), _rows(positive), queue, temperature)


def _rows(x: Tensor) -> Tensor:
    """(N, D, S) -> (N * S, D), row n * S + s."""
    return x.transpose(1, 2).reshape(-1, x.shape[1])
