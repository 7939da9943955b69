"""SOLOv2 against numbers that AdelaiDet's code gave: targets, losses, heads, detections."""

import pytest
import torch
from solov2_golden import build, image_instances, load, own_name, unpack
from torch.testing import assert_close

from densessl.modeling.heads.solov2 import split_levels
from densessl.modeling.solov2_inference import segment_image
from densessl.modeling.solov2_targets import assign_targets, resize_masks

torch.set_num_threads(1)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
FEATURES = ("p2", "p3", "p4", "p5", "p6")


def targets_of(data, index):
    return assign_targets(
        image_instances(data, index),
        feature_size=tuple(side // 4 for side in data["padded"].tolist()),
        stride=4,
        num_classes=int(data["classes"]),
        num_grids=data["grids"].tolist(),
        scale_ranges=data["ranges"].tolist(),
        sigma=0.2,
    )


@pytest.mark.parametrize("name", ["targets_s0", "targets_s1", "targets_odd_s2"])
def test_targets(name):
    data = load(name)
    feature_size = [side // 4 for side in data["padded"].tolist()]
    missing, extra, positives, shared = 0, 0, 0, 0
    for index in range(int(data["images"])):
        targets = targets_of(data, index)
        offset = 0
        for level, grid in enumerate(data["grids"].tolist()):
            cells = slice(offset, offset + grid * grid)
            own = (targets.cell >= offset) & (targets.cell < offset + grid * grid)
            order = targets.cell[own] - offset
            assert order.tolist() == data[f"{index}/{level}/order"].tolist()
            category = targets.category[cells].view(grid, grid)
            assert torch.equal(category, data[f"{index}/{level}/category"].long())
            positive = data[f"{index}/{level}/positive"]
            assert torch.equal(targets.category[cells] < int(data["classes"]), positive)
            masks = targets.masks[targets.instance[own]]
            expected = unpack(data[f"{index}/{level}/masks"], feature_size)
            assert masks.shape == expected.shape
            missing += int((~masks & expected).sum())
            extra += int((masks & ~expected).sum())
            positives += len(order)
            shared += len(order) - len(set(order.tolist()))
            offset += grid * grid
    assert positives > 20
    assert missing == 0
    if "odd" in name:
        # sides that 4 does not divide: cv2 truncates each row's share to quarters (values of 0.5 to 0.75 may
        # end as 0), here the interpolation is exact. One pixel in a thousand.
        assert 0 < extra < 1e-3 * positives * feature_size[0] * feature_size[1]
    else:
        assert extra == 0
    if name == "targets_s1":
        assert shared > 0  # cells with two instances are among the cases


def test_total_loss_and_gradients():
    data = load("total_loss_s4")
    grids, classes = data["grids"].tolist(), int(data["classes"])
    model = build({}, grids, classes)
    names = [f"{kind}/{level}" for kind in ("category", "kernel") for level in range(5)]
    inputs = {name: data[name].clone().requires_grad_(True) for name in names}
    mask = data["mask"].clone().requires_grad_(True)

    def flat(kind):
        levels = [inputs[f"{kind}/{level}"].flatten(2) for level in range(5)]
        return torch.cat(levels, 2).transpose(1, 2)

    targets = [targets_of(data, index) for index in range(3)]
    assert len(targets[1].cell) == 0  # an image without objects between the others
    losses = model.losses(flat("category"), flat("kernel"), mask, targets)
    assert_close(losses["loss_mask"], data["loss_ins"], **TOLERANCE)
    assert_close(losses["loss_category"], data["loss_cate"], **TOLERANCE)
    sum(losses.values()).backward()
    assert_close(mask.grad, data["mask_gradient"], **TOLERANCE)
    for level in range(5):
        assert_close(inputs[f"category/{level}"].grad, data[f"category_gradient/{level}"], **TOLERANCE)
        assert_close(inputs[f"kernel/{level}"].grad, data[f"kernel_gradient/{level}"], **TOLERANCE)


def golden_model(data):
    """The model of model_s7 with its weights (stored as multiples of 1/64), and its features."""
    features = {name: (data[f"feature/{name}"] / 64).requires_grad_(True) for name in FEATURES}
    model = build(
        features,
        data["grids"].tolist(),
        int(data["classes"]),
        score_threshold=float(data["score_threshold"]),
        max_detections_per_image=int(data["top"]),
    )
    weights = {own_name(k[7:]): v / 64 for k, v in data.items() if k.startswith("weight/")}
    model.load_state_dict(weights, strict=True)  # all of ours, no other: the buffers are not saved
    return model, features


def golden_batch(data):
    batch = []
    for index in range(2):
        instances = image_instances(data, index)
        height, width = data[f"{index}/output"].tolist()
        image = torch.zeros(3, *instances.image_size)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def test_heads_forward():
    data = load("model_s7")
    model, features = golden_model(data)
    with torch.no_grad():
        logits, kernels = model.instance_head(split_levels(list(features.values())))
        mask_feature = model.mask_head(list(features.values())[:4])
    for level in range(5):
        assert_close(logits[level], data[f"category/{level}"], **TOLERANCE)
        assert_close(kernels[level], data[f"kernel/{level}"], **TOLERANCE)
    assert_close(mask_feature[:1], data["mask_feature"], **TOLERANCE)
    assert data["mask_feature"].std() > 0.1
    assert data["kernel/0"].std() > 0.1


def test_training_step_of_the_whole_model():
    data = load("model_s7")
    model, features = golden_model(data)
    losses = model.train()(golden_batch(data))
    assert_close(losses["loss_mask"], data["loss_ins"], **TOLERANCE)
    assert_close(losses["loss_category"], data["loss_cate"], **TOLERANCE)
    sum(losses.values()).backward()
    for name, feature in features.items():
        expected = data[f"feature_gradient/{name}"]
        assert_close(feature.grad[-len(expected) :], expected, rtol=1e-4, atol=1e-5)
    parameters = dict(model.named_parameters())
    for key in data:
        kind, _, name = key.partition("/")
        if kind.startswith("weight_gradient"):
            gradient = parameters[own_name(name)].grad.double()
            # of thousands of terms: relative to their norm
            tolerance = 1e-5 * float(data[f"weight_gradient_norm/{name}"]) * gradient.numel() ** 0.5 + 1e-6
            value = gradient.norm() if kind.endswith("norm") else gradient.sum()
            assert_close(value, data[key], rtol=0, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}")


def test_detections_of_the_whole_model():
    data = load("model_s7")
    model, features = golden_model(data)
    batch = golden_batch(data)
    with torch.no_grad():
        together = [output["instances"] for output in model.eval()(batch)]
        for index in range(2):
            model.backbone.features = {name: value[index : index + 1] for name, value in features.items()}
            (output,) = model(batch[index : index + 1])
            alone = output["instances"]
            check_detections(alone, data, index, data[f"{index}/output"])
            # the authors' enlargement depends on the batch, ours does not
            assert torch.equal(alone.pred_masks, together[index].pred_masks)
            assert_close(alone.scores, together[index].scores, rtol=0, atol=1e-6)


def check_detections(instances, data, index, size):
    assert instances.image_size == tuple(size.tolist())
    assert_close(instances.scores, data[f"{index}/out_scores"], **TOLERANCE)
    assert torch.equal(instances.pred_classes, data[f"{index}/out_classes"].long())
    expected = unpack(data[f"{index}/out_masks"], size)
    assert instances.pred_masks.shape == expected.shape
    assert instances.pred_masks.dtype == torch.bool
    # a pixel may fall on the other side of one half by rounding
    assert (instances.pred_masks != expected).sum() <= 1e-5 * expected.numel()
    assert instances.pred_boxes.tensor.shape == (len(expected), 4)
    for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor.tolist()):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(("index", "count"), [(0, 100), (1, 100), (2, 6), (3, 0), (4, 0)])
def test_postprocessing(index, count):
    data = load("postprocess_s6")
    grids = data["grids"].tolist()
    areas = torch.cat([torch.full((g * g,), float(s)) for g, s in zip(grids, (8, 8, 16, 32, 32))])
    instances = segment_image(
        data["scores"],
        data["kernels"],
        data["features"][0],
        smallest_area=areas,
        stride=4,
        image_size=tuple(data[f"{index}/image"].tolist()),
        output_size=tuple(data[f"{index}/output"].tolist()),
        score_threshold=float(data[f"{index}/score_threshold"]),
        update_threshold=float(data[f"{index}/update_threshold"]),
        pre_nms_topk=int(data[f"{index}/pre_nms"]),
        max_detections=int(data[f"{index}/top"]),
        nms_kernel=str(data[f"{index}/kernel"]),
    )
    assert len(instances) == count
    check_detections(instances, data, index, data[f"{index}/output"])


def test_resized_masks_are_the_average_of_four_inner_pixels():
    masks = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0)) > 0.5
    inner = sum(masks[:, y::4, x::4].float() for y in (1, 2) for x in (1, 2))
    resized = resize_masks(masks, (10, 12), 4)
    assert torch.equal(resized[:, :8], inner >= 2)
    assert not resized[:, 8:].any()
    odd = torch.rand(2, 33, 46, generator=torch.Generator().manual_seed(1)) > 0.5
    expected = torch.nn.functional.interpolate(odd[None].float(), size=(8, 12), mode="bilinear")[0] >= 0.5
    assert torch.equal(resize_masks(odd, (8, 12), 4), expected)
