"""Suites become lists of cells; mistakes in a suite file or on the command line are named."""

import importlib.util
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from densessl.benchmark.cells import Cell, Trainer, assignment, shell
from densessl.benchmark.plan import plan_comparison, plan_transfer, plan_tuning
from densessl.benchmark.suites import Task, known_tasks, read_comparison, read_tasks
from densessl.config import load_config
from densessl.errors import ConfigError

ROOT = Path(__file__).parents[2]

SUITE = """
suite = dict(
    title="t", data="build it", baseline="scratch",
    methods=dict(
        scratch=dict(config="", trials=[dict(downstream=["optimizer.lr=1"]), dict()], chosen=0, tuned=""),
        dense=dict(
            config="benchmarks/mini/densecl_R_18.py",
            trials=[dict(pretrain=["optimizer.lr=2"]), dict(pretrain=["optimizer.lr=3"])],
            chosen=1,
            tuned="yes",
        ),
    ),
    tasks=dict(boxes=dict(title="b", config="benchmarks/mini/mask_rcnn_R_18.py", metrics=["bbox/AP"])),
    same=dict(pretrain=["dataloader"], downstream=["model"]),
    tiny=dict(pretrain=["train.max_iter=2"], downstream=["train.max_iter=4"]),
    select=dict(task="boxes", metric="bbox/AP"),
    tuning_seed=77,
)
"""


def write(tmp_path, text=SUITE):
    path = tmp_path / "own.py"
    path.write_text(text)
    return str(path)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_transfer_plan_is_balanced_over_seeds():
    tasks = [Task("voc", "", "v.py", ("bbox/AP",)), Task("coco", "", "c.py", ("segm/AP",), ("a=1",))]
    cells = plan_transfer({"one": "1.pth", "random": ""}, tasks, 2, ["b=2"])
    assert [cell.name for cell in cells] == [
        *("one/seed0/voc", "random/seed0/voc", "one/seed0/coco", "random/seed0/coco"),
        *("one/seed1/voc", "random/seed1/voc", "one/seed1/coco", "random/seed1/coco"),
    ]
    assert cells[2] == Cell("one", "coco", 0, "c.py", ("a=1", "b=2"), "1.pth", "", ("segm/AP",))
    assert cells[3].start == ""


def test_comparison_plan_pretrains_each_method_and_seed(tmp_path):
    suite = read_comparison(write(tmp_path))
    cells = plan_comparison(suite, 2, ["train.device=cpu"])
    assert [(cell.name, cell.needs) for cell in cells[:3]] == [
        ("scratch/seed0/boxes", ""),
        ("dense/seed0/pretrain", ""),
        ("dense/seed0/boxes", "dense/seed0/pretrain"),
    ]
    assert [cell.seed for cell in cells] == [0, 0, 0, 1, 1, 1]
    assert cells[0].overrides == ("optimizer.lr=1", "train.device=cpu")
    assert cells[1].overrides == ("optimizer.lr=3", "train.device=cpu")  # the chosen trial
    assert cells[2].overrides == ("train.device=cpu",)
    tiny = plan_comparison(read_comparison(write(tmp_path), tiny=True), 1)
    assert [cell.overrides[-1] for cell in tiny] == [
        "train.max_iter=4",
        "train.max_iter=2",
        "train.max_iter=4",
    ]


def test_tuning_plan_runs_every_trial_with_its_own_seed(tmp_path):
    cells = plan_tuning(read_comparison(write(tmp_path)))
    assert [cell.name for cell in cells] == [
        *("scratch-trial0/seed77/boxes", "scratch-trial1/seed77/boxes"),
        *("dense-trial0/seed77/pretrain", "dense-trial0/seed77/boxes"),
        *("dense-trial1/seed77/pretrain", "dense-trial1/seed77/boxes"),
    ]
    assert [c.overrides for c in cells if c.task == "pretrain"] == [("optimizer.lr=2",), ("optimizer.lr=3",)]
    assert cells[3].needs == "dense-trial0/seed77/pretrain"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline="scratch"', 'baseline="other"', "baseline 'other' is none of the methods"),
        (", dict()]", "]", r"different numbers of trials \(scratch 1, dense 2\)"),
        ("chosen=1", "chosen=2", "chosen=2 is none of its 2 trials"),
        ('data="build it", ', "", "lacks data"),
        ('metric="bbox/AP"', 'metric="segm/AP"', "select boxes segm/AP is no result of its tasks"),
        ("tuning_seed", "tunig_seed", "unknown tunig_seed"),
        ("densecl_R_18", "densecl_R_19", "no config file .*densecl_R_19"),
        ("boxes=dict", "pretrain=dict", "task 'pretrain'"),
        ('downstream=["optimizer.lr=1"]', 'pretrain=["optimizer.lr=1"]', "has no pretraining config"),
        ("suite = ", "other = ", "holds no dict `suite`"),
        ("suite = ", "suite = 1 / 0 + ", "ZeroDivisionError"),
    ],
)
def test_mistakes_in_a_suite_file(tmp_path, old, new, message):
    assert old in SUITE
    with pytest.raises(ConfigError, match=message):
        read_comparison(write(tmp_path, SUITE.replace(old, new)))


def test_unknown_names_list_the_known():
    with pytest.raises(
        ConfigError, match="unknown task 'coco1x'. Did you mean 'coco_1x'. Known: coral, cutpaste, voc"
    ):
        read_tasks(["voc", "coco1x"])
    with pytest.raises(ConfigError, match="no file .*mini_rcn.py. Did you mean 'mini_rcnn'"):
        read_comparison("mini-rcn")
    with pytest.raises(ConfigError, match="each once"):
        read_tasks(["voc", "voc"])


def test_every_task_of_the_table_has_its_config():
    for name in known_tasks():
        (task,) = read_tasks([name])
        assert "evaluator" in load_config(task.config, task.overrides).dataloader
        assert task.metrics


def test_mini_rcnn_compares_the_four_of_the_paper():
    suite = read_comparison("mini-rcnn")
    assert [m.name for m in suite.methods] == ["scratch", "simsiam", "moco_v2", "densecl"]
    assert {len(m.trials) for m in suite.methods} == {4}
    for config, overrides in {(cell.config, cell.overrides) for cell in plan_tuning(suite)}:
        load_config(config, overrides)  # every trial is a valid override


@pytest.mark.parametrize(
    "value",
    ["a/b.pth", "https://x.org/a.pth?b=1", 'sp ace"q', "", "ünï", "a=b,c", "true", "1.5", "r50", "1/2"],
)
def test_paths_survive_the_override_grammar(value):
    (override,) = OverridesParser.create().parse_overrides([assignment("train.init_checkpoint", value)])
    assert override.value() == value


def test_commands_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = Cell("a_b", "voc", 3, "v.py", ("x=1",), "my file.pth")
    command = Trainer(str(tmp_path / "tools/train.py"), ("--num-gpus", "2")).train(cell, tmp_path / "out")
    text = shell(command)
    assert "tools/train.py --config-file v.py --resume --num-gpus 2 x=1 train.seed=3" in text
    assert shlex.split(text)[-2:] == [
        'train.init_checkpoint="my file.pth"',
        f"train.output_dir={tmp_path}/out/cells/a_b/seed3/voc",
    ]
    evaluate = Trainer("t.py").evaluate(cell, Path("out"))
    assert evaluate[4] == "--eval-only"
    assert evaluate[-2] == "train.init_checkpoint=out/cells/a_b/seed3/voc/model_final.pth"


def test_checkpoints_and_overrides_are_told_apart():
    given = [
        "runs/dense/model_final.pth",
        "B=x/y.pth",
        "random",
        "train.max_iter=3",
        "w/v=1/c.pkl",
        "out/r50",
    ]
    assert tool("benchmark_transfer").split_arguments(given) == (
        {"dense": given[0], "B": "x/y.pth", "random": "", "c": "w/v=1/c.pkl", "r50": "out/r50"},
        ["train.max_iter=3"],
    )


@pytest.mark.parametrize("arguments", [[], ["train.seed=1"], ["a=x", "a=y"], ["random=x"], ["a="], ["a b=x"]])
def test_bad_checkpoints_are_refused(arguments):
    with pytest.raises(ConfigError, match="checkpoint"):
        tool("benchmark_transfer").split_arguments(arguments)
