"""Two real gloo processes: the golden step with shuffled batch norm, and equality with one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from densecl_golden import ConvBackbone
from moco_two_ranks import train
from test_contrastive_models import DenseCL, make, make_batch

SCRIPT = Path(__file__).with_name("densecl_two_ranks.py")


def run_ranks(script, arguments, world_size=2, timeout=120):
    """Starts `world_size` processes of `script`; returns their exit codes and outputs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(script), *arguments]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
def test_shuffled_step_on_two_ranks():
    codes, outputs = run_ranks(SCRIPT, ["densecl_dist2_s0"])
    assert codes == [0, 0], "\n".join(outputs)


def one_process(**options):
    """State before and after three steps of batch 8, and the views."""
    steps, size = 3, 8
    batches = [make_batch(count=size, seed=step)["views"] for step in range(steps)]
    model = make(DenseCL, **options).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, steps, lambda step: [{"views": batches[step]}])
    assert model.queue_ptr.item() == (steps * size) % model.queue_size
    views = [torch.stack(view) for view in zip(*batches, strict=True)]
    return {"before": before, "after": model.state_dict(), "views": views}


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path):
    cases = {
        "micro_batches": one_process(),
        "groups": one_process(backbone=ConvBackbone(3, 6), shuffle_groups=2),
    }
    torch.save(cases, tmp_path / "one_process.pth")
    codes, outputs = run_ranks(SCRIPT.with_name("moco_two_ranks.py"), [str(tmp_path / "one_process.pth")])
    assert codes == [0, 0], "\n".join(outputs)
