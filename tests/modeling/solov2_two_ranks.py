"""Run by test_solov2_two_ranks.py, once per rank, with a file that holds what one process computed.

The ranks have different numbers of objects. Their mean loss and gradients must be those of one process with
all images; without `normalize_over_ranks`, each rank's losses those of a process of its own.
"""

import sys

import torch
import torch.distributed as dist
from solov2_small import SCENES, scene, small_solov2
from torch.testing import assert_close


def batches(case):
    """One image per rank; the second has one object, or none ("empty")."""
    return [scene(SCENES[0])], [scene(() if case == "empty" else SCENES[1][:1], seed=1)]


def check(case, expected):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, batch = small_solov2().train(), batches(case)[rank]
    losses = model(batch)
    sum(losses.values()).backward()
    for name, value in losses.items():
        mean = value.detach().clone()
        dist.all_reduce(mean)
        assert_close(mean / ranks, expected["both"][name], rtol=1e-5, atol=0.0)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.clone()  # averaged as DistributedDataParallel does
        dist.all_reduce(gradient)
        reference = expected["gradients"][name]
        tolerance = 1e-5 * float(reference.abs().max()) + 1e-8
        assert_close(gradient / ranks, reference, rtol=1e-4, atol=tolerance)
    model.normalize_over_ranks = False
    for name, value in model(batch).items():
        assert_close(value.detach(), expected["own"][rank][name], rtol=1e-5, atol=0.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case, expected in torch.load(sys.argv[1], weights_only=True).items():
        check(case, expected)
    dist.barrier()
    dist.destroy_process_group()
