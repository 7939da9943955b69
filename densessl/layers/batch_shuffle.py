"""Shuffling batch norm: the key encoder sees a batch mixed across ranks.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722),
section 3.3: query and key of an image must not share batch statistics, or they give the answer away.
Authors' code facebookresearch/moco, moco/builder.py `_batch_shuffle_ddp`.

Difference: the authors gather all images on all ranks to permute them, and all outputs to undo it. Here each
rank sends every row only to the rank that needs it (all-to-all), 1 / W of the bytes. Values are the same.
Letters: N rows of a rank, W ranks, p the permutation of the W * N rows; rank r works on rows
p[r * N : (r + 1) * N] of the ranks' concatenated batches. One process permutes its own rows, which means
something where it encodes them in several parts (`in_parts`).
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from densessl.errors import ConfigError


class BatchShuffle(nn.Module):
    """Draws a permutation per call from (seed, number of the call), equal on all ranks, and applies it.

    The number of calls is part of the state dict, so a resumed run continues the sequence.

    Args:
        seed: the same on all ranks.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.calls = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.seed, self.calls], dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.calls = state.tolist()

    def draw(self, rows: int) -> "ShufflePlan":
        """Returns the plan of the next permutation for `rows` rows on each rank."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.calls) % 2**63)
        self.calls += 1
        world_size = comm.get_world_size()
        permutation = torch.randperm(world_size * rows, generator=generator, device="cpu")
        return ShufflePlan(permutation, comm.get_rank(), world_size)


class ShufflePlan:
    """Which rows this rank sends where, from a permutation known to all.

    Args:
        permutation: (W * N,) int64 on the CPU, equal on all ranks.
        rank: r.
        world_size: W.
    """

    def __init__(self, permutation: Tensor, rank: int, world_size: int):
        rows = len(permutation) // world_size
        owner = permutation // rows  # rank that has the row
        worker = torch.arange(len(permutation)) // rows  # rank that works on it
        sent = (owner == rank).nonzero()[:, 0]  # slots filled from here, by working rank
        received = owner[worker == rank]  # (N,) where the rows worked on here come from
        self.send_rows = permutation[sent] - rank * rows
        self.send_counts = torch.bincount(worker[sent], minlength=world_size).tolist()
        self.receive_counts = torch.bincount(received, minlength=world_size).tolist()
        # rows arrive grouped by owner; stable, so in the order of the slots within an owner
        self.slots = torch.argsort(received, stable=True)

    def shuffle(self, x: Tensor) -> Tensor:
        """(N, ...) rows of this rank's batch -> (N, ...) rows p[r * N : (r + 1) * N] to work on."""
        outgoing = x[_on(x.device, self.send_rows)]
        arrived = _exchange(outgoing, self.send_counts, self.receive_counts)
        return torch.empty_like(arrived).index_copy_(0, _on(x.device, self.slots), arrived)

    def unshuffle(self, x: Tensor) -> Tensor:
        """Undoes `shuffle`: (N, ...) results for the rows worked on -> results for this rank's own batch."""
        outgoing = x[_on(x.device, self.slots)]
        arrived = _exchange(outgoing, self.receive_counts, self.send_counts)
        return torch.empty_like(arrived).index_copy_(0, _on(x.device, self.send_rows), arrived)


def uses_plain_batch_norm(module: nn.Module, alone: bool = False) -> bool:
    """Whether some layer computes batch statistics per rank, so that shuffling means something.

    Args:
        alone: there is one process, where synchronised layers do so as well.
    """
    synchronised = () if alone else (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    return any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, synchronised)
        for layer in module.modules()
    )


def in_parts(encode: Callable[[Tensor], dict[str, Tensor]], rows: Tensor, parts: int) -> dict[str, Tensor]:
    """`encode(rows)`, computed in consecutive parts of equal size, each with batch statistics of its own.

    Running statistics move once per part.

    Args:
        encode: from (N, ...) to named tensors with N rows.
        rows: (N, ...).
        parts: a divisor of N; 1 encodes all at once.

    Raises:
        ConfigError: N is not divisible, or a part would be a single row.
    """
    if parts == 1:
        return encode(rows)
    if len(rows) % parts or len(rows) == parts:
        raise ConfigError(
            f"model.shuffle_groups={parts} does not cut the {len(rows)} images of a process's micro-batch "
            "into equal parts of two or more; change it or dataloader.train.total_batch_size."
        )
    encoded = [encode(part) for part in rows.chunk(parts)]
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}


def _exchange(outgoing: Tensor, send_counts: list[int], receive_counts: list[int]) -> Tensor:
    if len(send_counts) == 1:  # one process, perhaps without a process group
        return outgoing
    outgoing = outgoing.contiguous()
    arrived = torch.empty_like(outgoing)
    dist.all_to_all_single(arrived, outgoing, receive_counts, send_counts)
    return arrived


def _on(device: torch.device, index: Tensor) -> Tensor:
    """Copies a CPU index without making the host wait for the device."""
    if device.type == "cuda":
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device)
