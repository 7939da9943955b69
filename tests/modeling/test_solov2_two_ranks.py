"""Two real gloo processes against one process with both images."""

from pathlib import Path

import pytest
import torch
from solov2_small import small_solov2
from solov2_two_ranks import batches
from test_densecl_two_ranks import run_ranks

SCRIPT = Path(__file__).with_name("solov2_two_ranks.py")


def one_process(case):
    """Losses and gradients of both images together, and the losses of each alone."""
    parts = batches(case)
    model = small_solov2().train()
    both = model([item for part in parts for item in part])
    sum(both.values()).backward()
    own = [{name: value.detach() for name, value in model(part).items()} for part in parts]
    return {
        "both": {name: value.detach() for name, value in both.items()},
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "own": own,
    }


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path):
    expected = {case: one_process(case) for case in ("one object", "empty")}
    # otherwise the two normalisers could not be told apart
    for case in expected.values():
        mean = sum(losses["loss_category"] for losses in case["own"]) / 2
        assert (mean - case["both"]["loss_category"]).abs() > 0.01
    path = tmp_path / "one_process.pth"
    torch.save(expected, path)
    codes, outputs = run_ranks(SCRIPT, [str(path)])
    assert codes == [0, 0], "\n".join(outputs)
