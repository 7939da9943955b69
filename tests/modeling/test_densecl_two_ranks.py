"""Two real gloo processes: the golden step with shuffled batch norm, and equality with one process."""

from pathlib import Path

import pytest
import torch
from densecl_golden import ConvBackbone
from moco_two_ranks import train
from ranks import run_ranks
from test_contrastive_models import DenseCL, make, make_batch

SCRIPT = Path(__file__).with_name("densecl_two_ranks.py")


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
