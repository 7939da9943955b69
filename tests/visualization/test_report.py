"""The whole report: every section with what belongs there, valid, self-contained, and honest about gaps."""

import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

from densessl.config import load_config
from densessl.errors import CheckpointError, ConfigError
from densessl.visualization.backbones import pretrained_backbone, untrained_backbone
from densessl.visualization.photographs import read_photograph
from densessl.visualization.report import ReportOptions, build_report, write_report
from densessl.visualization.runs import read_run, run_folders

TOOL = Path(__file__).parents[2] / "tools" / "make_report.py"
SECTIONS = ["run", "ap", "health", "diagnostics", "loss", "correspondences", "features", "clusters"]
SECTIONS += ["detections", "speed", "reproduce"]
OPTIONS = ReportOptions("t")
VOID = {"meta", "img", "br", "path", "circle", "link"}


class Page(HTMLParser):
    """Collects what the tests ask for and checks that tags close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.stack, self.tags, self.text, self.headings = [], [], {}, []
        self.section = ""
        self.feed(html)
        assert self.stack == []

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), self.section))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "section":
            self.section = attributes["id"]
        self.tags.append((tag, attributes, self.section))
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        self.text[self.section] = self.text.get(self.section, "") + " " + data

    def all(self, tag: str, section: str | None = None) -> list[dict]:
        return [a for t, a, s in self.tags if t == tag and section in (None, s)]


@pytest.fixture(scope="module")
def report(pretrain_dir, finetune_dirs):
    runs = [read_run(name, path) for name, path in finetune_dirs.items()]
    html = build_report([read_run("pretraining", pretrain_dir)], runs, ReportOptions("A <title>"))
    return html, Page(html)


def test_every_section_is_there_and_linked(report):
    _, page = report
    assert [a["id"] for a in page.all("section")] == SECTIONS
    links = [a["href"] for a in page.all("a")]
    assert links == ["#content", *(f"#{name}" for name in SECTIONS)]
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:]))


def test_ids_are_unique_and_the_title_is_escaped(report):
    html, page = report
    ids = [a["id"] for _, a, _ in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert "<title>A &lt;title&gt;</title>" in html


def test_nothing_is_loaded_from_elsewhere(report):
    html, page = report
    for tag, attributes, _ in page.tags:
        for name in ("src", "srcset", "href", "data", "action", "poster"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:80])
    assert not page.all("script")
    assert not page.all("link")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_have_descriptions_and_charts_have_names(report):
    _, page = report
    assert all(a["alt"] for a in page.all("img"))
    assert all("aria-label" in a or a.get("aria-hidden") == "true" for a in page.all("svg"))
    # two photographs: two models each in correspondences; photograph and two models in features and
    # clusters; ground truth and two runs in detections
    sections = ("correspondences", "features", "clusters", "detections")
    assert [len(page.all("img", s)) for s in sections] == [4, 6, 6, 6]


def test_a_run_that_learned_nothing_scores_as_its_untrained_start(tmp_path, pretrain_dir, photographs):
    (tmp_path / "config.yaml").write_text((pretrain_dir / "config.yaml").read_text())
    run = read_run("p", tmp_path)
    weights = {f"backbone.{k}": v for k, v in untrained_backbone(run).backbone.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "model_0000001.pth")
    image = read_photograph(photographs / "photo0.png").image[:96, :128]
    maps = [model(image) for model in (pretrained_backbone(read_run("p", tmp_path)), untrained_backbone(run))]
    assert maps[0].shape == (512, 3, 4)
    assert torch.equal(*maps)
    assert not torch.equal(maps[0], untrained_backbone(run, start=1)(image))


def test_what_was_run(report):
    text = report[1].text["run"]
    for fact in ("DenseCL", "ResNet-18", "100 of 100 (20.0 epochs)"):
        assert fact in text, fact
    assert "random initialisation" in text


def test_speed_and_memory(report):
    text = report[1].text["speed"]
    for fact in ("240 ms", "33.2", "0.50 GiB", "2 min 28 s", "25%", "not recorded", "Peak memory"):
        assert fact in text, fact


def test_diagnostics_have_values_and_a_sentence_and_unknown_ones_are_kept(report):
    text = report[1].text["diagnostics"]
    for fact in ("retrieval_miou", "11.5", "23.75", "nearest labelled locations", "novel", "47.5"):
        assert fact in text, fact
    assert "Not described in this report" in text


def test_a_metric_that_nobody_knows_has_a_chart(report):
    charts = [a["aria-label"] for a in report[1].all("svg", "health") if "aria-label" in a]
    assert "other/unheard_of: other/unheard_of from 16 to 106" in charts


def test_correspondences_in_words(report):
    text = report[1].text["correspondences"]
    assert "pretraining: the nearest neighbour is right for" in text
    assert "95% interval" in text


def test_ap_values_and_what_is_missing(report):
    text = report[1].text["ap"]
    for value in ("31.5", "63.0", "12.2", "30.5", "n/a"):
        assert value in text, value
    assert "No evaluation yet: new" in text
    assert "Mask AP50 on held-out images: DenseCL start 62.0, random start 23.5" in report[0]


def test_loss_and_health(report):
    page = report[1]
    assert "chance ln(K+1) = 4.17" in page.text["loss"]
    assert len(page.all("svg", "loss")) > 5
    assert "No collapse" in page.text["health"]
    assert "longer than the data (40 images)" in page.text["health"]


def test_differences_of_the_fine_tuning_runs(report):
    text = report[1].text["run"].split("fine-tuning runs differ")[1]
    assert "train.init_checkpoint" in text
    assert "optimizer.lr" not in text


def test_predictions_are_counted_beside_ground_truth(report):
    alts = [a["alt"] for a in report[1].all("img", "detections")]
    assert alts[0] == "photo0.png, ground truth: 1 <massive>."
    assert alts[1] == "photo0.png, DenseCL start: 1 <massive>."
    assert alts[5] == "photo1.png, random start: none."


def test_changes_against_the_recipe(tmp_path, pretrain_dir, photographs):
    recipe = Path(__file__).parents[2] / "configs/quick_schedules/densecl_R_50_coco_800ep_quick.py"
    saved = load_config(str(recipe), ["train.seed=11", "model.queue_size=128"])
    LazyConfig.save(saved, str(tmp_path / "config.yaml"))  # names a function, tuples, interpolations
    run = read_run("mine", tmp_path)
    assert run.setting("dataloader.train.seed") == 11
    expected = ["All", "settings", "in", "which", "recipe", "and", "mine", "differ"] + (
        ["Setting", "recipe", "mine", "model.queue_size", "64", "128", "train.seed", "0", "11"]
    )

    def changed(options=OPTIONS):
        page = Page(build_report([read_run("mine", tmp_path)], [], options))
        return page.text["run"].split("against its recipe")[1]

    assert changed(ReportOptions("t", recipes={"mine": str(recipe)})).split() == expected
    assert "add --recipe mine=CONFIG" in changed()
    log = "[11/25 14:42:31] INFO: Arguments: Namespace(config_file='{}', resume=True)\n"
    (tmp_path / "log.txt").write_text(log.format(recipe.relative_to(recipe.parents[2])))
    assert changed().split() == expected
    elsewhere = tmp_path / "recipe.py"
    elsewhere.write_text("raise AssertionError('a log must not run programs')")
    (tmp_path / "log.txt").write_text(log.format(elsewhere))
    assert "is not here" in changed()
    with pytest.raises(ConfigError, match="no run has this name"):
        build_report([run], [], ReportOptions("t", recipes={"other": str(recipe)}))


def test_two_methods_share_their_untrained_starts(tmp_path, pretrain_dir, photographs):
    runs = [read_run(name, pretrain_dir) for name in ("first", "second")]
    page = Page(build_report(runs, [], ReportOptions("t", images=[str(photographs)], num_images=1)))
    names = [a["alt"] for a in page.all("img", "clusters")]
    assert [n.split(" of the ")[1].split(" backbone")[0] for n in names[1:]] == (
        ["first", "untrained, start 1", "second"]
    )
    with pytest.raises(ConfigError, match="Two runs are called 'first'"):
        build_report([runs[0], runs[0]], [], OPTIONS)


def test_a_hostile_config_runs_nothing(tmp_path):
    hostile = "model: {a: !!python/object/apply:os.mkdir [made]}\ntrain: {b: !!python/tuple [1, 2]}\n"
    (tmp_path / "config.yaml").write_text(hostile)
    run = read_run("x", tmp_path)
    assert run.setting("model.a") == ["made"]
    assert run.setting("train.b") == [1, 2]
    assert not Path("made").exists()


def test_without_pretraining(finetune_dirs):
    page = Page(build_report([], [read_run("one", finetune_dirs["DenseCL start"])], ReportOptions("t")))
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert "No pretraining run was given" in page.text["correspondences"]
    assert "31.5" in page.text["ap"]


def test_without_fine_tuning_pictures_come_from_given_photographs(pretrain_dir, photographs):
    run = read_run("pretraining", pretrain_dir)
    page = Page(build_report([run], [], ReportOptions("t", images=[str(photographs)], num_images=1)))
    assert len(page.all("img", "features")) == 3
    assert "--finetune NAME=RUN_DIR" in page.text["ap"]
    page = Page(build_report([run], [], ReportOptions("t")))
    assert "add --images" in page.text["features"]


def test_a_run_that_has_just_started(tmp_path, pretrain_dir):
    (tmp_path / "config.yaml").write_text((pretrain_dir / "config.yaml").read_text())
    page = Page(build_report([read_run("young", tmp_path)], [], ReportOptions("t")))
    assert "no checkpoint yet" in page.text["features"]
    assert "logged nothing yet" in page.text["loss"]
    assert "no pretraining log" in page.text["health"]


def test_a_test_set_that_is_not_here_is_said(tmp_path, finetune_dirs):
    text = (finetune_dirs["DenseCL start"] / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("visualization_test_set", "no_such_set"))
    page = Page(build_report([], [read_run("one", tmp_path)], ReportOptions("t")))
    assert "no_such_set" in page.text["detections"]


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path, pretrain_dir, photographs):
    text = (pretrain_dir / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("depth: 18", "depth: 34"))
    for name in ("model_0000100.pth", "model_0000100.pth.json", "last_checkpoint"):
        (tmp_path / name).write_bytes((pretrain_dir / name).read_bytes())
    with pytest.raises(CheckpointError, match="does not hold the backbone"):
        build_report([read_run("p", tmp_path)], [], ReportOptions("t", images=[str(photographs)]))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "absent", "there is no run directory"),
        (lambda folder: folder, "has no config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text("a: [") and folder, "cannot be read as a config"),
        (lambda folder: (folder / "config.yaml").write_text("a: 1") and folder, "not the config of a run"),
    ],
)
def test_wrong_run_directories(tmp_path, prepare, message):
    with pytest.raises(ConfigError, match=message):
        read_run("x", prepare(tmp_path))


def test_no_run_and_no_images_are_config_errors(pretrain_dir, tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        build_report([], [], ReportOptions("t"))
    with pytest.raises(ConfigError, match="does not exist"):
        build_report([read_run("p", pretrain_dir)], [], ReportOptions("t", images=[str(tmp_path / "absent")]))


def test_command(tmp_path, finetune_dirs):
    output = tmp_path / "deep" / "report.html"
    command = [sys.executable, str(TOOL), "--title", "From the command", "--output", str(output)]
    done = subprocess.run(
        [*command, "--finetune", f"new={finetune_dirs['new']}"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "From the command" in output.read_text()
    done = subprocess.run([*command, "--finetune", "nonsense"], capture_output=True, text=True, timeout=240)
    assert done.returncode == ConfigError.exit_code
    assert "must be NAME=PATH" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(command[:2], capture_output=True, text=True, timeout=120)
    assert "needs at least one run" in done.stderr
    assert "Warning" not in done.stderr


def test_runs_by_their_directories(tmp_path, pretrain_dir, finetune_dirs):
    for name, source in (
        ("densecl", pretrain_dir),
        ("a/rcnn", finetune_dirs["new"]),
        ("b/rcnn", finetune_dirs["new"]),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_bytes((source / "config.yaml").read_bytes())
    paths = [str(tmp_path / "densecl"), str(tmp_path / "a"), str(tmp_path / "b/rcnn")]
    named = run_folders(paths)
    assert list(named) == ["densecl", "a/rcnn", "b/rcnn"]
    assert [read_run(*item).is_pretraining for item in named.items()] == [True, False, False]
    with pytest.raises(ConfigError, match="Two run directories are called"):
        run_folders([paths[0], paths[0]])
    make_report = runpy.run_path(str(TOOL))["main"]
    make_report(paths)
    text = Page((tmp_path / "densecl/report.html").read_text()).text
    assert "No evaluation yet: a/rcnn, b/rcnn" in text["ap"]
    assert "no checkpoint yet" in text["clusters"]
    assert "Nothing logged yet: a/rcnn, b/rcnn" in text["loss"]


def test_output_is_tried_before_the_pictures_are_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output .*file/report.html cannot be written"):
        write_report(tmp_path / "file" / "report.html", [], [], ReportOptions("t"))
    with pytest.raises(ConfigError, match="at least one run"):
        write_report(tmp_path / "report.html", [], [], ReportOptions("t"))
    assert not (tmp_path / "report.html").exists()


def test_help_does_not_import_torch():
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['make_report.py', '--help']\n"
        f"try:\n    runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
