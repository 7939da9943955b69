"""InfoNCE against a queue of negatives, computed without the (rows, K + 1) matrix of logits.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722),
Eq. (1); authors' code facebookresearch/moco, moco/builder.py. Letters: M rows, N images, D embedding,
K queue length.

The queue is a constant, so the gradient of log(sum_u exp(q.u / T)) with respect to q is the softmax-weighted
mean of the queue, (M, D), divided by T. It is accumulated in the same pass as the sum (one chunk of the
queue at a time, rescaled by the running maximum), so nothing is recomputed in the backward pass and the
memory is M * chunk floats instead of several times M * K: for DenseCL at 32 images, 49 positions and
K = 65536, 64 MB instead of 411 MB times four to six.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.losses.precision import at_least_float32

# Logits held at a time, 64 MB in float32 on a GPU (a few launches) and 1 MB on a CPU (its cache)
CHUNK_ELEMENTS = {"cuda": 2**24, "cpu": 2**18}


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Mean over rows of -log softmax of the positive among 1 + K candidates.

    With T = 1, q = k = (1, 0) and the queue ((0, 1), (0, 1)), the loss is log(e + 2) - 1 = 0.5514.

    Args:
        query: (M, D) unit vectors; the gradient flows here.
        key: (M, D) unit vectors, row i the positive of query i.
        queue: (K, D) unit vectors, constant.
        temperature: T, positive.

    Returns:
        Scalar, float32 (float64 for float64 input), also under autocast.

    Raises:
        ValueError: shapes that do not fit, or a queue that requires gradients.
    """
    return info_nce_with_metrics(query, key, queue, temperature)[0]


def info_nce_with_metrics(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """`info_nce` and its health numbers.

    Returns:
        the loss, and scalars without gradient: "accuracy", the share of rows whose positive scores above all
        K negatives (K + 1-way accuracy); "positive_cosine" and "negative_cosine", the mean similarities.
    """
    if query.shape != key.shape or query.dim() != 2:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must be equal, (rows, D)")
    with torch.autocast(query.device.type, enabled=False):
        positive = (at_least_float32(query) * at_least_float32(key)).sum(1)  # (M,)
    negative, hardest = queue_logsumexp(query, queue, temperature)  # (M,), (M,)
    # log(e^{p/T} + e^{lse}) - p/T
    loss = F.softplus(negative - positive / temperature).mean()
    with torch.no_grad():
        metrics = {
            "accuracy": (positive > hardest).to(positive.dtype).mean(),
            "positive_cosine": positive.mean(),
            # mean_{i,u} q_i.u = (mean q).(mean u)
            "negative_cosine": (at_least_float32(query).mean(0) * queue.mean(0)).sum(),
        }
    return loss, metrics


def queue_logsumexp(
    query: Tensor, queue: Tensor, temperature: float, chunk_elements: int | None = None
) -> tuple[Tensor, Tensor]:
    """Streams the queue past the queries.

    Args:
        query: (M, D).
        queue: (K, D), K at least 1, constant.
        temperature: T.
        chunk_elements: logits held at a time; `CHUNK_ELEMENTS` of the device by default. It changes memory
            and speed, and the result by rounding only.

    Returns:
        log sum_u exp(q.u / T), (M,), differentiable in `query`; and max_u q.u, (M,), without gradient.
        On CUDA under autocast the products take the autocast type and accumulate in float32; elsewhere
        everything is float32 (float64 for float64 input).
    """
    if queue.dim() != 2 or queue.shape[0] == 0 or queue.shape[1] != query.shape[1]:
        raise ValueError(f"queue {tuple(queue.shape)} must be (K, {query.shape[1]}) with K >= 1")
    if queue.requires_grad:
        raise ValueError("the queue is a constant here; detach it")
    product_dtype = None
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        product_dtype = torch.get_autocast_dtype("cuda")
    elements = chunk_elements or CHUNK_ELEMENTS.get(query.device.type, 2**24)
    with torch.autocast(query.device.type, enabled=False):
        return _QueueLogSumExp.apply(
            at_least_float32(query), at_least_float32(queue), temperature, elements, product_dtype
        )


class _QueueLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, queue, temperature, chunk_elements, product_dtype):
        rows, dim = query.shape
        scaled = query / temperature
        peak = query.new_full((rows, 1), -torch.inf)  # running maximum of the logits
        total = query.new_zeros(rows, 1)  # sum of exp(logit - peak)
        weighted = query.new_zeros(rows, dim)  # sum of exp(logit - peak) * u
        for chunk in queue.split(max(1, chunk_elements // max(1, rows))):
            logits = _product(scaled, chunk.t(), product_dtype)  # (M, chunk)
            new_peak = torch.maximum(peak, logits.amax(1, keepdim=True))
            decay = (peak - new_peak).exp_()
            weights = logits.sub_(new_peak).exp_()
            total = total.mul_(decay).add_(weights.sum(1, keepdim=True))
            if ctx.needs_input_grad[0]:
                weighted = weighted.mul_(decay).add_(_product(weights, chunk, product_dtype))
            peak = new_peak
        ctx.save_for_backward(weighted.div_(total * temperature))
        hardest = peak[:, 0] * temperature
        ctx.mark_non_differentiable(hardest)
        return (peak + total.log())[:, 0], hardest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logsumexp, _):
        (mean_key,) = ctx.saved_tensors
        return grad_logsumexp[:, None] * mean_key, None, None, None, None


def _product(left: Tensor, right: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Matrix product accumulated and returned in the type of `left`, its factors rounded to `dtype`."""
    if dtype is None:
        return left @ right
    return torch.mm(left.to(dtype), right.to(dtype), out_dtype=left.dtype)
