"""Two gloo processes: shares of a step, and image lists that differ."""

import json
import os
import subprocess
import sys
from itertools import islice

from densessl.data.build import build_train_loader

PROGRAM = """
import json, os, sys
from itertools import islice
import torch.distributed as dist
from detectron2.utils import comm
from densessl.data.build import build_train_loader
from densessl.errors import DataError

rank = int(os.environ["RANK"])
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
comm.create_local_process_group(2)

def records(count):
    return [{"file_name": f"{i}.jpg", "image_id": i} for i in range(count)]

loader = build_train_loader(records(22), lambda record: record, 8, seed=5, accumulate=2, num_workers=rank)
loader.set_step(2)
batches = [[list(sample["sample"]) for sample in batch] for batch in islice(iter(loader), 8)]
message = ""
try:
    build_train_loader(records(22 + rank), lambda record: record, 8, seed=5, num_workers=0)
except DataError as error:
    message = str(error)
print(json.dumps([batches, loader.state(), message]))
dist.destroy_process_group()
"""


def test_two_ranks_share_each_step_and_notice_different_lists(tmp_path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "store")]
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    ranks = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    images = [{"file_name": f"{index}.jpg", "image_id": index} for index in range(22)]
    one = build_train_loader(images, lambda record: record, 8, seed=5, num_workers=0)
    one.set_step(2)
    for step, batch in enumerate(islice(iter(one), 4)):
        whole = [list(sample["sample"]) for sample in batch]
        parts = [ranks[rank][0][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert sum(parts, []) == whole

    for _, state, message in ranks:
        assert state == {**one.state(), "world_size": 2, "accumulate": 2}
        assert "rank(s) [0]: 22 images" in message
        assert "rank(s) [1]: 23 images" in message
        assert "check mounts" in message
