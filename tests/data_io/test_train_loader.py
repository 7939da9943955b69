"""The loader: equal batches for every number of workers, exact positions, errors that name their cause."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from densessl.data.build import ResumableLoader, TrainDataset, build_test_loader, build_train_loader
from densessl.data.decode import decode_image
from densessl.data.samplers import EpochOrder
from densessl.data.sources import FolderSource
from densessl.errors import ConfigError, DataError

torch.set_num_threads(1)


def records(count: int) -> list[dict]:
    return [{"file_name": f"{index}.jpg", "image_id": index} for index in range(count)]


def global_mapper(record: dict) -> dict:
    """Draws from all three global generators, as detectron2's mapper does."""
    return {**record, "drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


class RngMapper:
    needs_rng = True

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        return {**global_mapper(record), "rng": rng.random()}


class FailOn:
    """A mapper to which the images in `bad` are unreadable."""

    def __init__(self, bad: set[int], error: type[Exception] = DataError):
        self.bad, self.error = bad, error

    def __call__(self, record: dict) -> dict:
        if record["image_id"] in self.bad:
            raise self.error(f"cannot read image {record['file_name']}: broken")
        return global_mapper(record)


def loader(count: int = 10, mapper=None, batch: int = 4, **kwargs) -> ResumableLoader:
    kwargs = {"seed": 3, "num_workers": 0, **kwargs}
    return build_train_loader(records(count), mapper or RngMapper(), batch, **kwargs)


def take(source: ResumableLoader, count: int, step: int = 0) -> list:
    source.set_step(step)
    return list(islice(iter(source), count))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_workers_do_not_change_a_bit(accumulate: int) -> None:
    expected = take(loader(accumulate=accumulate), 9)
    drawn = {sample["drawn"] + (sample["rng"],) for batch in expected for sample in batch}
    assert len(drawn) == 36 // accumulate  # every sample has numbers of its own
    for workers in (1, 4):
        assert take(loader(accumulate=accumulate, num_workers=workers), 9) == expected


def test_order_is_the_documented_one() -> None:
    order, got = EpochOrder(10, 3), take(loader(accumulate=2), 8)
    for number, batch in enumerate(got):
        for place, sample in enumerate(batch):
            position = number * 2 + place
            epoch = position // 8
            assert sample["sample"] == (epoch, sample["image_id"])
            assert sample["image_id"] == order.indices(epoch)[position % 8]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_any_step_can_be_entered(workers: int, step: int) -> None:
    whole = take(loader(accumulate=2), 20)
    assert take(loader(accumulate=2, num_workers=workers), 6, step) == whole[2 * step : 2 * step + 6]


def test_a_loader_can_be_entered_again_while_workers_run() -> None:
    source = loader(num_workers=2)
    first = take(source, 5)
    assert take(source, 3, 1) == first[1:4]
    assert take(source, 5, 0) == first


def test_loading_leaves_the_global_generators_alone() -> None:
    for workers in (0, 2):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        take(loader(num_workers=workers), 3)
        assert (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        ) == before


def test_collate_function_and_descriptions() -> None:
    source = loader(collate_fn=len, num_workers=1)
    assert take(source, 3) == [4, 4, 4]
    assert (source.num_images, source.total_batch_size, source.accumulate, source.steps_per_epoch) == (
        10,
        4,
        1,
        2,
    )
    assert source.describe() == (
        "10 images, batch 4 = 1 process(es) x 1 micro-batch(es) x 4, "
        "2 step(s) per epoch, 1 worker(s) per process"
    )
    state = source.state()
    assert all(isinstance(value, (int, str)) for value in state.values())
    assert state == loader().state()
    assert loader(11).state()["names_sha256"] != state["names_sha256"]


def test_wrong_batches_and_empty_sets() -> None:
    with pytest.raises(
        ConfigError, match="total_batch_size = 4 is not divisible by 1 process.* 3: .* 3 or 6"
    ):
        loader(accumulate=3)
    with pytest.raises(DataError, match="holds 0 images"):
        loader(0)
    with pytest.raises(ConfigError, match="bad_image = 'ignore' is not one of raise, skip, replace"):
        loader(bad_image="ignore")
    with pytest.raises(ConfigError, match="'width' and 'height'.*record 0.*0.jpg"):
        loader(aspect_ratio_grouping=True)
    with pytest.raises(ConfigError, match="repeat_threshold needs records with 'annotations'"):
        loader(repeat_threshold=0.001)


def test_fewer_images_than_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        got = take(loader(3, batch=8), 2)
    assert "3 images, fewer than total_batch_size = 8" in caplog.text
    assert [len(batch) for batch in got] == [8, 8]
    samples = [sample for batch in got for sample in batch]
    assert len({sample["sample"] for sample in samples}) == len({sample["rng"] for sample in samples}) == 16


def test_aspect_groups_and_repeats_through_the_builder() -> None:
    sizes = [{**record, "width": 30 + 20 * (i % 2), "height": 40} for i, record in enumerate(records(12))]
    got = take(
        build_train_loader(sizes, global_mapper, 4, seed=0, num_workers=0, aspect_ratio_grouping=True), 6
    )
    assert {tuple({s["width"] > s["height"] for s in batch}) for batch in got} == {(True,), (False,)}
    rare = [
        {**record, "annotations": [{"category_id": int(i == 0)}]} for i, record in enumerate(records(100))
    ]
    source = build_train_loader(rare, RngMapper(), 10, seed=0, num_workers=0, repeat_threshold=0.09)
    samples = [sample for batch in take(source, 10) for sample in batch if sample["image_id"] == 0]
    assert len(samples) == 3  # sqrt(0.09 / 0.01) = 3
    assert len({sample["rng"] for sample in samples}) == 3


def test_test_loader_is_detectron2s() -> None:
    got = list(build_test_loader(dataset=records(3), mapper=lambda record: record, num_workers=0))
    assert got == [[record] for record in records(3)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [DataError, OSError])
def test_unreadable_image_stops_by_default(workers: int, error: type[Exception]) -> None:
    with pytest.raises(DataError) as raised:
        take(loader(mapper=FailOn({7}, error), num_workers=workers), 10)
    message = str(raised.value)
    assert message.startswith("cannot read image 7.jpg: ")
    assert "broken (bad_image = 'raise'; 'skip' and 'replace' go on without it)" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_unreadable_images_keep_the_batch_and_the_order(policy: str, tmp_path) -> None:
    def run(workers: int) -> tuple[list, list[str]]:
        source = loader(40, FailOn({7, 8}), bad_image=policy, max_bad_fraction=0.1, num_workers=workers)
        folder = tmp_path / f"{workers}"
        folder.mkdir()
        source.set_output_dir(str(folder))
        got = take(source, 30)
        assert source.num_bad_images == 2
        return got, sorted((folder / "bad_images.jsonl").read_text().splitlines())

    got, lines = run(0)
    assert run(2) == (got, lines)
    plain = take(loader(40, global_mapper), 30)
    for batch, reference in zip(got, plain):
        assert len(batch) == 4
        for sample, wanted in zip(batch, reference):
            assert sample["sample"] == wanted["sample"]
            assert sample["image_id"] not in (7, 8)
            assert sample["drawn"] == wanted["drawn"]
            if wanted["image_id"] not in (7, 8):
                assert sample == wanted
            elif policy == "skip":
                assert sample["image_id"] == 9
    assert len(lines) == 2  # once each, in however many epochs they are met
    entry = json.loads(lines[0])
    assert entry["file_name"] == "7.jpg"
    assert entry["index"] == 7
    assert entry["reason"] == "cannot read image 7.jpg: broken"


def test_too_many_unreadable_images_stop_the_run() -> None:
    with pytest.raises(DataError, match=r"max_bad_fraction = 0\.05; the last one: cannot read image"):
        take(loader(40, FailOn({1, 2, 3}), bad_image="skip"), 40)
    assert take(loader(40, FailOn({1, 2}), bad_image="skip"), 40)


def test_vanished_storage_stops_soon() -> None:
    source = loader(5000, FailOn(set(range(5000))), bad_image="replace", max_bad_fraction=1.0)
    with pytest.raises(DataError, match="20 others failed as well"):
        take(source, 1)


def test_mapper_that_refuses_a_record() -> None:
    def mapper(record: dict) -> dict | None:
        return None if record["image_id"] == 7 else global_mapper(record)

    got = take(loader(mapper=mapper), 10)
    assert all(sample["image_id"] != 7 for batch in got for sample in batch)
    assert take(loader(mapper=mapper, num_workers=2), 10) == got
    with pytest.raises(DataError, match="what it refuses"):
        take(loader(mapper=lambda record: None), 1)


def test_errors_of_a_mapper_keep_their_type() -> None:
    def mapper(record: dict) -> dict:
        raise KeyError("a bug")

    for workers in (0, 1):
        with pytest.raises(KeyError, match="a bug"):
            take(loader(mapper=mapper, num_workers=workers, bad_image="skip"), 1)


class KillAt:
    """A mapper whose worker dies at image 5, or hangs there."""

    def __init__(self, action: str):
        self.action = action

    def __call__(self, record: dict) -> dict:
        if record["image_id"] == 5:
            time.sleep(60 if self.action == "hang" else 1)
            os.kill(os.getpid(), signal.SIGKILL)
        return record


@pytest.mark.parametrize("action", ["kill", "hang"])
def test_dead_and_stuck_workers_are_named(action: str) -> None:
    start = time.monotonic()
    with pytest.raises(DataError) as raised:
        take(loader(mapper=KillAt(action), num_workers=2, timeout=8), 10)
    message = str(raised.value)
    assert "worker " in message
    assert ": 5.jpg" in message
    assert "(pid " in message
    assert ("killed by signal" if action == "kill" else "timed out after 8 seconds") in message
    assert time.monotonic() - start < 40


def test_death_outside_of_the_loader_is_named_too() -> None:
    """torch's handler raises wherever the main thread is, here in a sleep that stands for a forward pass."""
    batches = iter(loader(mapper=KillAt("kill"), num_workers=1, prefetch_factor=8, batch=1))

    def wait_beside_the_loader() -> None:
        next(batches)
        time.sleep(30)

    try:
        with pytest.raises(DataError, match=r"killed by signal.*: 5\.jpg"):
            wait_beside_the_loader()
    finally:
        batches.close()  # else the handler speaks of this worker again when a later test has a child end


SIGNAL_PROGRAM = """
import os, signal, subprocess, time
from densessl.data.build import build_train_loader

def mapper(record):
    return {**record, "pid": os.getpid()}

records = [{"file_name": str(i), "image_id": i} for i in range(64)]
got = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: got.append(1))  # the trainer notes the wish and finishes its step
batches = iter(build_train_loader(records, mapper, 2, seed=0, num_workers=2))
pids = {next(batches)[0]["pid"] for _ in range(4)}
for name in ("TERM", "INT"):
    # from outside the group, as Slurm and terminals do
    subprocess.run(["kill", f"-{name}", "--", f"-{os.getpgid(0)}"], start_new_session=True, check=True)
    time.sleep(0.5)
    after = {next(batches)[0]["pid"] for _ in range(12)}
    assert after == pids, (after, pids)
assert len(got) == 2
print("alive", time.monotonic())
"""


def test_signals_to_the_process_group_leave_the_workers_alive_and_exit_is_quick() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SIGNAL_PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, start_new_session=True)
    word, end = done.stdout.split() or ("nothing", 0)
    assert word == "alive", done.stderr
    assert done.returncode == 0
    assert time.monotonic() - float(end) < 30


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_detectron2_mapper_is_deterministic(photographs) -> None:
    box = {"bbox": [5, 5, 20, 20], "bbox_mode": 0, "category_id": 0}
    dataset = [
        {
            "file_name": str(photographs / f"{i}.png"),
            "image_id": i,
            "height": 40,
            "width": 50,
            "annotations": [box],
        }
        for i in range(6)
    ]
    augmentations = [
        T.RandomFlip(),
        T.ResizeShortestEdge((20, 60), sample_style="range"),
        T.RandomBrightness(0.5, 1.5),
    ]

    def run(workers: int, step: int, count: int) -> list[tuple]:
        mapper = DatasetMapper(is_train=True, augmentations=augmentations, image_format="RGB")
        source = build_train_loader(dataset, mapper, 2, seed=9, num_workers=workers)
        return [
            (
                s["image_id"],
                tuple(s["image"].shape),
                s["image"].sum().item(),
                s["instances"].gt_boxes.tensor.tolist(),
            )
            for batch in take(source, count, step)
            for s in batch
        ]

    whole = run(0, 0, 8)
    assert run(2, 0, 8) == whole
    assert run(2, 3, 4) == whole[6:14]
    assert len({entry[1] for entry in whole}) > 3


def test_damaged_files_through_source_decoder_and_policy(photographs, tmp_path) -> None:
    (photographs / "3.png").write_bytes((photographs / "3.png").read_bytes()[:2000])
    (photographs / "4.png").write_bytes(b"")
    (photographs / "5.png").unlink()
    (photographs / "5.png").symlink_to("gone.png")
    source = build_train_loader(
        FolderSource(str(photographs)),
        lambda record: {"image": decode_image(record), "image_id": record["image_id"]},
        2,
        seed=0,
        num_workers=2,
        bad_image="replace",
        max_bad_fraction=0.5,
    )
    source.set_output_dir(str(tmp_path))
    got = take(source, 12)
    assert {sample["image_id"] for batch in got for sample in batch} == {"0.png", "1.png", "2.png"}
    text = (tmp_path / "bad_images.jsonl").read_text()
    # two workers that meet the same file at the same moment may both list it
    assert len({json.loads(line)["index"] for line in text.splitlines()}) == 3
    assert all(
        reason in text for reason in ("3.png: damaged", "4.png: the file is empty", "5.png: No such file")
    )


def test_train_dataset_alone() -> None:
    dataset = TrainDataset(records(5), RngMapper(), seed=1)
    assert dataset[(2, 3)] == dataset[(2, 3)]
    assert dataset[(2, 3)]["rng"] != dataset[(1, 3)]["rng"]
    assert dataset[(0, 8)]["image_id"] == 3  # a repetition of image 3
    assert dataset[(0, 8)]["rng"] != dataset[(0, 3)]["rng"]
