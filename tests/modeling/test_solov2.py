"""SOLOv2: what trains, what it does without objects, precision, outputs, errors."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, PolygonMasks
from detectron2.utils.events import EventStorage
from PIL import Image
from solov2_golden import FOLDER, own_name
from solov2_small import SCENES, SIZE, scene, scenes, small_solov2
from torch.testing import assert_close

from densessl.data.datasets.sample_writer import CocoWriter, mask_to_rle
from densessl.errors import ConfigError
from densessl.evaluation.coco_evaluation import COCOEvaluator
from densessl.losses.dice import dice_loss
from densessl.modeling.heads import SOLOv2InstanceHead, SOLOv2MaskHead
from densessl.modeling.heads.solov2 import split_levels, with_coordinates
from densessl.modeling.meta_arch import SOLOv2
from densessl.modeling.solov2_targets import assign_targets

torch.set_num_threads(1)
EMPTY = scene(())


def losses_of(model, batch):
    with torch.no_grad():
        return model.train()(batch)


def test_registered_and_named_as_the_published_heads():
    assert META_ARCH_REGISTRY.get("SOLOv2") is SOLOv2
    published = json.loads((FOLDER / "state_dict_heads.json").read_text())
    with torch.device("meta"):
        heads = {
            "instance_head": SOLOv2InstanceHead(in_channels=256, num_classes=80),
            "mask_head": SOLOv2MaskHead(in_channels=256),
        }
    own = {f"{k}.{name}": list(v.shape) for k, head in heads.items() for name, v in head.state_dict().items()}
    assert {own_name(name): shape for name, shape in published.items()} == own


def test_initial_weights():
    model = small_solov2()
    convolutions = [m for m in model.instance_head.modules() if isinstance(m, torch.nn.Conv2d)]
    convolutions += [m for m in model.mask_head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 2 * 2 + 2 + 7 + 1
    weights = torch.cat([m.weight.detach().flatten() for m in convolutions])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    assert_close(model.instance_head.category_pred.bias.sigmoid(), torch.full((2,), 0.01))
    assert not model.instance_head.kernel_pred.bias.any()


def test_every_parameter_gets_a_gradient_and_health_is_logged():
    model = small_solov2()
    with EventStorage(0) as storage:
        losses = model.train()(scenes())
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert set(losses) == {"loss_category", "loss_mask"}
    sum(losses.values()).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert float(latest["solov2/positives"]) > 6
    assert float(latest["solov2/positive_score"]) == pytest.approx(0.01, abs=0.005)


def test_images_without_objects():
    model = small_solov2()
    losses = model.train()([EMPTY, EMPTY])
    assert losses["loss_mask"] == 0
    assert losses["loss_category"] > 0  # every cell is a negative; divided by 0 + 1
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith(("mask_head.", "instance_head.kernel_")):
            assert not parameter.grad.any(), name
    # beside an image with objects, an empty one adds negatives and changes no mask
    both, alone = losses_of(model, [scenes()[0], EMPTY]), losses_of(model, [scenes()[0]])
    assert_close(both["loss_mask"], alone["loss_mask"])
    assert both["loss_category"] > alone["loss_category"]


def test_losses_of_a_batch_from_those_of_its_images():
    model = small_solov2()
    first, second = scenes()
    counts = []
    for item in (first, second):
        with EventStorage(0) as storage:
            losses_of(model, [item])
            counts.append(float(storage.latest()["solov2/positives"][0]))
    one, two, both = (losses_of(model, batch) for batch in ([first], [second], [first, second]))
    total = sum(counts)
    focal = one["loss_category"] * (counts[0] + 1) + two["loss_category"] * (counts[1] + 1)
    assert_close(both["loss_category"], focal / (total + 1))
    # no cell has two instances here: as many masks as cells
    dice = one["loss_mask"] * counts[0] + two["loss_mask"] * counts[1]
    assert_close(both["loss_mask"], dice / total)
    doubled = small_solov2(category_weight=2.0, mask_weight=1.5)
    weighted = losses_of(doubled, [first])
    assert_close(weighted["loss_category"], 2 * one["loss_category"])
    assert_close(weighted["loss_mask"], 0.5 * one["loss_mask"])


def test_losses_stay_in_float32_under_autocast(monkeypatch):
    model = small_solov2()
    expected = losses_of(model, scenes())
    seen = []

    def spy(prediction, target):
        seen.append(prediction.dtype)
        return dice_loss(prediction, target)

    # a sigmoid in bfloat16 would have two digits
    monkeypatch.setattr("densessl.modeling.meta_arch.solov2.dice_loss", spy)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(scenes())
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert_close(value, expected[name], rtol=0.03, atol=0.0)
    assert seen == [torch.float32] * 2
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def target_cells(instances, **options):
    """Cells of one 8x8 level of a 64x64 image with features of 16x16: list of (row, column)."""
    options = {"scale_ranges": [(1, 64)], "num_grids": [8], "sigma": 0.2, **options}
    targets = assign_targets(instances, feature_size=(16, 16), stride=4, num_classes=2, **options)
    grid = options["num_grids"][0]
    return [(cell // grid, cell % grid) for cell in targets.cell.tolist()], targets


def square(x, y, side, label=0, size=64):
    from detectron2.structures import BitMasks, Instances

    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, y : y + side, x : x + side] = True
    instances = Instances((size, size), gt_masks=BitMasks(mask), gt_classes=torch.tensor([label]))
    instances.gt_boxes = Boxes(torch.tensor([[x, y, x + side, y + side]]).float())
    return instances


def test_targets_by_hand():
    # pixels 20..27: centre of mass 23.5, cell 2 of 8 pixels each; the centre region is 1.6 pixels wide
    # and ends at 24.3, in cell 3
    cells, targets = target_cells(square(20, 20, 8))
    assert cells == [(2, 2), (2, 3), (3, 2), (3, 3)]
    assert targets.category.view(8, 8)[2:4, 2:4].tolist() == [[0, 0], [0, 0]]
    assert (targets.category == 2).sum() == 60
    assert targets.masks[0].nonzero().min(0).values.tolist() == [5, 5]
    assert targets.masks[0].sum() == 4  # 8x8 pixels at a quarter
    # a large region reaches at most one cell to each side
    cells, _ = target_cells(square(0, 0, 64), sigma=0.9)
    assert cells == [(r, c) for r in (2, 3, 4) for c in (2, 3, 4)]
    # both ends of a range belong to it
    assert target_cells(square(20, 20, 8), scale_ranges=[(8, 9)])[0]
    assert target_cells(square(20, 20, 8), scale_ranges=[(1, 8)])[0]
    assert target_cells(square(20, 20, 8), scale_ranges=[(8.1, 9)])[0] == []


def test_the_last_of_two_instances_owns_a_shared_cell():
    from detectron2.structures import Instances

    pair = Instances.cat([square(20, 20, 8, label=0), square(18, 18, 12, label=1)])
    cells, targets = target_cells(pair)
    assert cells.count((2, 2)) == 2  # its kernel has to produce both
    assert targets.category.view(8, 8)[2, 2] == 1
    swapped = Instances.cat([pair[1:], pair[:1]])
    assert target_cells(swapped)[1].category.view(8, 8)[2, 2] == 0


def test_levels_and_coordinates():
    maps = [torch.rand(1, 3, 32 >> i, 48 >> i) for i in range(4)] + [torch.rand(1, 3, 2, 3)]
    levels = split_levels(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (16, 24), (8, 12), (4, 6), (4, 6)]
    assert_close(levels[0], torch.nn.functional.avg_pool2d(maps[0], 2))
    assert all(new is old for new, old in zip(levels[1:4], maps[1:4]))
    extended = with_coordinates(torch.zeros(2, 1, 3, 5))
    assert extended.shape == (2, 3, 3, 5)
    assert extended[1, 1, 2].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]  # x along a row
    assert extended[1, 2, :, 4].tolist() == [-1.0, 0.0, 1.0]


@pytest.fixture
def dataset(tmp_path, request):
    """The scenes as a registered COCO data set; yields its name."""
    writer = CocoWriter(tmp_path, "val", ("disc", "bar"), "test")
    for index, item in enumerate(scenes()):
        picture = Image.fromarray(item["image"].permute(1, 2, 0).numpy())
        image_id = writer.add_image(picture, f"{index}.png")
        for mask, label in zip(item["instances"].gt_masks.tensor, item["instances"].gt_classes.tolist()):
            writer.add_instance(image_id, label, mask_to_rle(mask.numpy()))
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(writer.document))
    name = f"solov2_{request.node.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path / "images" / "val"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_two_pictures_are_learned_and_found(dataset):
    model, batch = small_solov2(), scenes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(22):
        loss = sum(model.train()(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[0] > 3
    assert history[-1] < 0.1 * history[0]
    records = DatasetCatalog.get(dataset)
    assert [record["image_id"] for record in records] == [1, 2]
    evaluator = COCOEvaluator(dataset, tasks=("bbox", "segm"))
    evaluator.reset()
    with torch.no_grad():
        outputs = model.eval()(batch)
    evaluator.process(records, outputs)
    results = evaluator.evaluate()
    # at a quarter of 96 pixels outlines are coarse: AP above IoU 0.9 is low
    assert results["segm"]["AP50"] > 95
    assert results["segm"]["AP"] > 60
    assert results["bbox"]["AP50"] > 95
    # half the size, and three times: the same objects at the size that was asked for
    for scale in (0.5, 3):
        size = int(scale * SIZE)
        with torch.no_grad():
            (output,) = model([{**batch[0], "height": size, "width": size}])
        best = output["instances"][: len(SCENES[0])]
        assert best.image_size == (size, size)
        boxes = best.pred_boxes.tensor / scale
        expected = batch[0]["instances"].gt_boxes.tensor
        for box in boxes:
            assert (box - expected).abs().amax(1).min() <= 5


def test_nothing_found():
    model = small_solov2(score_threshold=0.9)
    item = {"image": torch.zeros(3, 70, 50, dtype=torch.uint8), "height": 140, "width": 99}
    with torch.no_grad():
        (output,) = model.eval()([item])
    instances = output["instances"]
    assert len(instances) == 0
    assert instances.image_size == (140, 99)
    assert instances.pred_masks.shape == (0, 140, 99)
    assert instances.pred_masks.dtype == torch.bool
    assert instances.pred_boxes.tensor.shape == (0, 4)
    assert instances.scores.dtype == torch.float32
    assert instances.pred_classes.dtype == torch.int64
    with torch.no_grad():  # without "height" and "width": the size of the input
        (output,) = model([{"image": item["image"]}])
    assert output["instances"].image_size == (70, 50)


def test_polygons_are_refused():
    item = scenes()[0]
    item["instances"].gt_masks = PolygonMasks([[[0.0, 0.0, 5.0, 0.0, 5.0, 5.0]]] * 3)
    with pytest.raises(ConfigError, match='instance_mask_format="bitmask"'):
        small_solov2().train()([item])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_in_features": ("p2", "p3", "p4", "p5", "p7")}, "instance_in_features: p7 not among"),
        ({"mask_in_features": ("p1",)}, "mask_in_features: p1 not among"),
        ({"scale_ranges": ((1, 96),)}, "scale_ranges has 1"),
        ({"instance_strides": (8, 16)}, "instance_strides has 2"),
        ({"nms_kernel": "box"}, "nms_kernel='box': use one of gaussian, linear"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        small_solov2(**options)


def test_head_of_another_number_of_classes():
    model = small_solov2()
    with pytest.raises(ConfigError, match=r"num_classes=3, but model.instance_head.num_classes=2"):
        SOLOv2(
            backbone=model.backbone,
            instance_head=model.instance_head,
            mask_head=model.mask_head,
            num_classes=3,
            pixel_mean=[0.0],
            pixel_std=[1.0],
        )
