"""The two tools from end to end on a small `coral`: interrupted, resumed, collected."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/datasets"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A folder with a small `coral` in the real layout, and one thread."""
    from builders import fake_sdist, load_script

    from densessl.data.datasets.sample_writer import build_atomically, sha256_of

    root = tmp_path_factory.mktemp("datasets")
    sdist = fake_sdist(root / "sdist.tar.gz")
    script = load_script("prepare_coral")
    build_atomically(root / "coral", lambda folder: script.build(folder, 80, sdist, sha256_of(sdist)))
    return {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}


def start(environment, *command):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == status, output[-3000:]
    return output


@pytest.mark.slow
def test_comparison_then_transfer(environment, tmp_path):
    compare = [
        "tools/compare_methods.py",
        "--suite",
        "mini-rcnn",
        "--tiny",
        "--seeds",
        "1",
        "--device",
        "cpu",
    ]
    compare += ["--output", str(tmp_path / "mini")]
    cells = tmp_path / "mini/cells"
    process = start(environment, *compare, "--methods", "scratch,densecl")
    log = cells / "densecl/seed0/pretrain/process.log"
    while process.poll() is None and not log.exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 143)
    assert re.search(r"coral_train: \d+ pictures against \d+ of coral_val", output)
    assert "[1/3] scratch/seed0/mask_rcnn: done" in output
    assert "Stopped by SIGTERM at densecl/seed0/pretrain. The same command resumes there." in output
    assert "- densecl/seed0/pretrain: interrupted" in (tmp_path / "mini/results.md").read_text()

    output = finish(start(environment, *compare))  # all methods of the suite
    assert "[1/7] scratch/seed0/mask_rcnn: finished before" in output
    results = json.loads((tmp_path / "mini/results.json").read_text())
    assert results["missing"] == []
    counts = {row: table["bbox/AP"]["n"] for row, table in results["tables"]["mask_rcnn"].items()}
    assert counts == dict.fromkeys(("scratch", "simsiam", "moco_v2", "densecl"), 1)
    assert (tmp_path / "mini/mask_rcnn.png").is_file()
    pretrained = cells / "densecl/seed0/pretrain/model_final.pth"
    log = (cells / "densecl/seed0/mask_rcnn/process.log").read_text()
    assert f"Starting from the weights of {pretrained}" in log

    transfer = ["tools/benchmark_transfer.py", f"densecl={pretrained}", "--suite", "coral", "--seeds", "2"]
    transfer += ["--device", "cpu", "--output", str(tmp_path / "transfer"), "train.max_iter=2"]
    transfer += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    output = finish(start(environment, *transfer))
    assert "densecl in coral: 120 tensors load" in output
    table = json.loads((tmp_path / "transfer/results.json").read_text())["tables"]["coral"]["densecl"]
    assert set(table["bbox/AP"]["values"]) == {"0", "1"}
    assert table["segm/AP50"]["deviation"] is not None
    output = finish(start(environment, *transfer, "--collect-only", "optimizer.lr=1e-2"), 2)
    assert "densecl/seed0/coral: " in output
    assert "optimizer.lr: 0.0003 there, 0.01 in the plan" in output


def test_help_is_immediate_and_dry_run_needs_no_data(environment, tmp_path):
    for tool in ("benchmark_transfer", "compare_methods"):
        command = [sys.executable, "-X", "importtime", f"tools/{tool}.py", "--help"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert "--seeds" in done.stdout
        assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    dry = ["tools/benchmark_transfer.py", "a=nowhere.pth", "random", "--suite", "coral,voc", "--seeds", "2"]
    dry += ["--dry-run", "--num-gpus", "8", "--output", str(tmp_path / "out")]
    output = finish(start({**environment, "DETECTRON2_DATASETS": str(tmp_path)}, *dry))
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("#")][-1] == "# 8/8 random/seed1/voc"
    assert (
        sum("lazyconfig_train_net.py --config-file" in line and "--num-gpus 8" in line for line in lines) == 8
    )
    assert not (tmp_path / "out").exists()
