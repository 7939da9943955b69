"""Run by test_densecl_two_ranks.py, once per rank, with a file that holds what one process computed.

Two ranks must reach the weights, averaged weights and queues of one process with the whole batch, in float64:
with two micro-batches each and no batch norm, and with shuffled batch norm against one process in two groups.
Also moves rows through a drawn permutation and back.
"""

import sys

import torch
import torch.distributed as dist
from densecl_golden import ConvBackbone
from test_contrastive_models import DenseCL, make
from torch.testing import assert_close

from densessl.layers.batch_shuffle import BatchShuffle


def train(model, steps, micro_batches):
    """SGD; `micro_batches(step)` gives this process's share of the batch of `step`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        batches = micro_batches(step)
        for batch in batches:
            (sum(model(batch).values()) / len(batches)).backward()
        if dist.is_initialized():
            for parameter in parameters:  # as DistributedDataParallel does
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        optimizer.step()
        model.after_optimizer_step()
    return model


def check_training(expected, backbone, micro):
    model = make(DenseCL, backbone, seed=dist.get_rank() + 1).double()  # other weights than the other rank's
    assert_same_on_all_ranks(model.queue)  # drawn from the shared seed, although numpy's differ
    assert_same_on_all_ranks(model.dense_queue)
    model.load_state_dict(expected["before"])
    views, rank, world_size = expected["views"], dist.get_rank(), dist.get_world_size()

    def micro_batches(step):
        whole = [view[step] for view in views]  # (B, 3, H, W) each
        parts = [view.chunk(micro * world_size) for view in whole]
        return [{"views": [part[world_size * a + rank] for part in parts]} for a in range(micro)]

    train(model, len(views[0]), micro_batches)
    for name, value in expected["after"].items():
        if "running" in name or "tracked" in name:  # each rank has seen its own part only
            continue
        assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-11)


def check_shuffle():
    rank, world_size, rows = dist.get_rank(), dist.get_world_size(), 5
    shuffle = BatchShuffle(seed=7)
    for _ in range(3):
        plan = shuffle.draw(rows)
        batch = rank * rows + torch.arange(rows)[:, None, None].expand(rows, 2, 3).float()
        mixed = plan.shuffle(batch)
        everything = [torch.empty_like(mixed) for _ in range(world_size)]
        dist.all_gather(everything, mixed)
        order = torch.cat(everything)[:, 0, 0]
        assert torch.equal(order.sort().values, torch.arange(world_size * rows).float())
        assert not torch.equal(order, order.sort().values)
        assert torch.equal(plan.unshuffle(mixed), batch)


def assert_same_on_all_ranks(tensor):
    everything = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(everything, tensor)
    assert all(torch.equal(other, tensor) for other in everything)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    check_shuffle()
    cases = torch.load(sys.argv[1], weights_only=True)
    check_training(cases["micro_batches"], None, micro=2)
    check_training(cases["groups"], ConvBackbone(3, 6), micro=1)
    dist.barrier()
    dist.destroy_process_group()
