"""Ground truth and predictions become the same instances, drawn where they are."""

import json

import numpy as np

from densessl.visualization.detections import (
    CLASS_COLOURS,
    Instance,
    draw_instances,
    ground_truth,
    in_words,
    predictions,
)

NAMES = ["plate", "massive"]


def test_ground_truth_polygon(records):
    (instance,) = ground_truth(records[0])
    assert instance.category == 1
    assert instance.box == (20, 20, 80, 80)
    assert instance.score is None
    assert instance.mask[20:80, 20:80].all()
    assert instance.mask.sum() == 3600


def test_crowds_are_left_out_and_large_objects_come_first(records):
    annotation = records[0]["annotations"][0]
    small = {**annotation, "segmentation": [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0]], "category_id": 0}
    record = {**records[0], "annotations": [small, {**annotation, "iscrowd": 1}, annotation]}
    assert [i.category for i in ground_truth(record)] == [1, 0]


def test_predictions_of_one_image_above_the_threshold(finetune_dirs):
    results = json.loads(
        (finetune_dirs["DenseCL start"] / "inference/coco_instances_results.json").read_text()
    )
    ids = {3: 0, 7: 1}
    (instance,) = predictions(results, 0, ids, (120, 160), threshold=0.5)
    assert instance.category == 1
    assert instance.box == (30, 30, 90, 90)
    assert instance.mask[30:90, 30:90].all()
    assert instance.mask.sum() == 3600
    assert len(predictions(results, 0, ids, (120, 160), threshold=0.1)) == 2
    assert predictions(results, 1, ids, (120, 160), threshold=0.5) == []


def test_drawing_tints_the_mask_only():
    image = np.full((120, 160, 3), 100, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[40:100, 60:120] = True
    canvas = draw_instances(image, [Instance(0, (60, 40, 120, 100), mask, 0.9)])
    assert (image == 100).all()
    expected = 0.55 * 100 + 0.45 * np.array(CLASS_COLOURS[0])
    np.testing.assert_allclose(canvas[80, 90], expected, atol=1)
    assert (canvas[:, :50] == 100).all()
    assert (canvas[105:] == 100).all()


def test_box_without_mask_is_drawn_and_labels_stay_inside():
    image = np.full((60, 60, 3), 100, np.uint8)
    canvas = draw_instances(image, [Instance(1, (-5, 50, 80, 70), None, 0.5)])
    assert canvas.shape == image.shape
    assert (canvas != 100).any()


def test_in_words():
    box = (0.0, 0.0, 1.0, 1.0)
    assert in_words([Instance(1, box, None), Instance(0, box, None), Instance(1, box, None)], NAMES) == (
        "1 plate, 2 massive"
    )
    assert in_words([], NAMES) == "none"
