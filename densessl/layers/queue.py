"""First-in-first-out queue of keys, as buffers of the model that owns it.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722),
section 3.2; authors' code facebookresearch/moco, moco/builder.py `_dequeue_and_enqueue`. Letters: K length,
D embedding, N keys of a rank, A micro-batches, W ranks.

Two differences from the authors, neither of which changes a value: keys are rows, (K, D) and not (D, K), so
that an enqueue writes contiguous memory and a product reads it; the write position stays on the device, so
that no step waits for it.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn


def register_queue(module: nn.Module, name: str, size: int, dim: int, seed: int) -> None:
    """Adds the buffers of a queue to `module`; they are saved with it.

    `<name>` (size, dim) float32: unit vectors, random at first. `<name>_ptr` (1,) int64: the row written
    next. `<name>_filled` (1,) int64: the rows that hold real keys.

    Args:
        seed: of the random rows; the same on every rank, since buffers are not broadcast in training.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(size, dim, generator=generator, device="cpu")
    module.register_buffer(name, F.normalize(keys, dim=1).to(torch.get_default_device()))
    module.register_buffer(f"{name}_ptr", torch.zeros(1, dtype=torch.int64))
    module.register_buffer(f"{name}_filled", torch.zeros(1, dtype=torch.int64))


@torch.no_grad()
def enqueue(module: nn.Module, name: str, keys: Tensor, skip: Tensor | None = None) -> None:
    """Overwrites the oldest rows of queue `name` with `keys`, wrapping at the end. No host sync.

    Args:
        keys: (B, D) unit vectors, at most K, equal on all ranks; see `gather_keys`.
        skip: 0-dim tensor on the device; where true nothing changes.
    """
    queue: Tensor = getattr(module, name)
    pointer: Tensor = getattr(module, f"{name}_ptr")
    filled: Tensor = getattr(module, f"{name}_filled")
    length, count = queue.shape[0], keys.shape[0]
    if count > length:
        raise ValueError(f"{count} keys do not fit in a queue of {length}")
    rows = (pointer + torch.arange(count, device=queue.device)) % length
    keys = keys.detach().to(queue.dtype)
    step: int | Tensor = count
    if skip is not None:
        skip = skip.to(torch.bool)
        keys = torch.where(skip, queue[rows], keys)
        step = torch.where(skip, 0, count)
    queue.index_copy_(0, rows, keys)
    pointer.add_(step).remainder_(length)
    filled.add_(step).clamp_(max=length)


@torch.no_grad()
def gather_keys(keys: Sequence[Tensor]) -> Tensor:
    """Collects the keys of one optimiser step from all ranks in the order of the global batch.

    Args:
        keys: A tensors (N, D), one per micro-batch, N equal everywhere.

    Returns:
        (A * W * N, D): micro-batch by micro-batch, rank by rank, so that the queue is the one that a single
        process with the whole batch would have.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return torch.cat(list(keys))
    own = torch.stack(list(keys))  # (A, N, D)
    gathered = own.new_empty(world_size, *own.shape)
    dist.all_gather(list(gathered.unbind(0)), own)
    return gathered.transpose(0, 1).reshape(-1, own.shape[-1])
