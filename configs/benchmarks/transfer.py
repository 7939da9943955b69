"""The downstream tasks of tools/benchmark_transfer.py: name -> title, config, results for the table.

Configs are relative to configs/. `overrides` (key=value) may be added to an entry. Numbers of a name in the
published tables are in the header of its config.
"""

_BOX = ["bbox/AP", "bbox/AP50", "bbox/AP75"]
_MASK = ["segm/AP", "segm/AP50", "segm/AP75"]
_COCO, _DETECTION = "COCO-InstanceSegmentation", "COCO-Detection"

tasks = dict(
    # --- small, run on two CPU cores in minutes
    coral=dict(
        title="small Mask R-CNN on the coral sample",
        config="quickstart/mask_rcnn_R_18_coral_random.py",
        metrics=["bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"],
    ),
    cutpaste=dict(
        title="small Mask R-CNN on the cutpaste sample",
        config="quickstart/mask_rcnn_R_18_cutpaste_random.py",
        metrics=["bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"],
    ),
    # --- published protocols, ResNet-50
    voc=dict(
        title="Faster R-CNN R50-C4, VOC07+12, 24k iterations",
        config="PascalVOC-Detection/faster_rcnn_R_50_C4_24k.py",
        metrics=_BOX,
    ),
    coco_1x=dict(
        title="Mask R-CNN R50-FPN, COCO, 1x, two fully connected layers",
        config=f"{_COCO}/mask_rcnn_R_50_FPN_1x_2fc.py",
        metrics=[*_BOX, *_MASK],
    ),
    coco_2x=dict(
        title="Mask R-CNN R50-FPN, COCO, 2x, two fully connected layers",
        config=f"{_COCO}/mask_rcnn_R_50_FPN_2x_2fc.py",
        metrics=[*_BOX, *_MASK],
    ),
    coco_1x_4conv=dict(
        title="Mask R-CNN R50-FPN, COCO, 1x, four convolutions",
        config=f"{_COCO}/mask_rcnn_R_50_FPN_1x_4conv1fc.py",
        metrics=[*_BOX, *_MASK],
    ),
    coco_2x_4conv=dict(
        title="Mask R-CNN R50-FPN, COCO, 2x, four convolutions",
        config=f"{_COCO}/mask_rcnn_R_50_FPN_2x_4conv1fc.py",
        metrics=[*_BOX, *_MASK],
    ),
    coco_10pct=dict(
        title="Mask R-CNN R50-FPN, a tenth of COCO's labels",
        config=f"{_COCO}/mask_rcnn_R_50_FPN_10pct_4conv1fc.py",
        metrics=[*_BOX, *_MASK],
    ),
    c4_1x=dict(
        title="Mask R-CNN R50-C4, COCO, 1x",
        config=f"{_COCO}/mask_rcnn_R_50_C4_1x.py",
        metrics=[*_BOX, *_MASK],
    ),
    c4_2x=dict(
        title="Mask R-CNN R50-C4, COCO, 2x",
        config=f"{_COCO}/mask_rcnn_R_50_C4_2x.py",
        metrics=[*_BOX, *_MASK],
    ),
    retinanet=dict(
        title="RetinaNet R50-FPN, COCO, 1x", config=f"{_DETECTION}/retinanet_R_50_FPN_1x.py", metrics=_BOX
    ),
    fcos=dict(title="FCOS R50-FPN, COCO, 1x", config=f"{_DETECTION}/fcos_R_50_FPN_1x.py", metrics=_BOX),
    keypoint=dict(
        title="Keypoint R-CNN R50-FPN, COCO, 2x",
        config="COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x.py",
        metrics=["keypoints/AP", "keypoints/AP50", "keypoints/AP75"],
    ),
    solov2=dict(title="SOLOv2 R50-FPN, COCO, 1x", config=f"{_COCO}/solov2_R_50_FPN_1x.py", metrics=_MASK),
    cityscapes=dict(
        title="Mask R-CNN R50-FPN, Cityscapes, 24k iterations",
        config="Cityscapes/mask_rcnn_R_50_FPN_24k.py",
        metrics=["segm/AP", "segm/AP50"],
    ),
    lvis=dict(
        title="Mask R-CNN R50-FPN, LVIS v1, 1x",
        config="LVIS-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
        metrics=["segm/AP", "segm/APr", "segm/APc", "segm/APf", "bbox/AP"],
    ),
)
