"""Two gloo processes: shares of a step, and image lists that differ."""

from itertools import islice

import ranks
from detectron2.utils import comm

from densessl.data.build import build_train_loader
from densessl.errors import DataError


def records(count: int) -> list[dict]:
    return [{"file_name": f"{index}.jpg", "image_id": index} for index in range(count)]


def load_share() -> tuple[list, dict, str]:
    """This rank's batches from step 2 on, its loader's state, and the error where lists differ."""
    rank = comm.get_rank()
    loader = build_train_loader(records(22), lambda record: record, 8, seed=5, accumulate=2, num_workers=rank)
    loader.set_step(2)
    batches = [[list(sample["sample"]) for sample in batch] for batch in islice(iter(loader), 8)]
    message = ""
    try:
        build_train_loader(records(22 + rank), lambda record: record, 8, seed=5, num_workers=0)
    except DataError as error:
        message = str(error)
    return batches, loader.state(), message


def test_two_ranks_share_each_step_and_notice_different_lists() -> None:
    shares = ranks.run(load_share)

    one = build_train_loader(records(22), lambda record: record, 8, seed=5, num_workers=0)
    one.set_step(2)
    for step, batch in enumerate(islice(iter(one), 4)):
        whole = [list(sample["sample"]) for sample in batch]
        parts = [shares[rank][0][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert sum(parts, []) == whole

    for _, state, message in shares:
        assert state == {**one.state(), "world_size": 2, "accumulate": 2}
        assert "rank(s) [0]: 22 images" in message
        assert "rank(s) [1]: 23 images" in message
        assert "check mounts" in message
