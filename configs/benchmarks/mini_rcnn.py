"""Pretraining methods compared on instance segmentation, at a size that trains in minutes on one GPU.

    python datasets/prepare_cutpaste.py --images 2000 --val-images 200
    tools/compare_methods.py --suite mini_rcnn --seeds 3

The comparison of DenseCL's Table 1 in small: scratch, SimSiam, MoCo v2, DenseCL, then Mask R-CNN. Time on a
GPU: not measured. `--tiny` is a smoke test on `coral` for two CPU cores; its numbers mean nothing.
"""

# Every method gets four trials: the learning rate of the pretraining, and of the fine-tuning (AdamW; 3e-4
# keeps what pretraining found, 1e-3 is good from scratch: docs/benchmarks.md).
_MASK_RATES = ("optimizer.lr=3e-4", "optimizer.lr=1e-3")


def _trials(*rates):
    return [
        dict(pretrain=[f"optimizer.lr={rate}"], downstream=[mask_rate])
        for rate in rates
        for mask_rate in _MASK_RATES
    ]


_UNTUNED = ""  # how the trials went: "seed 1000: mask AP 1.0, 2.0, ...", from compare_methods.py --tune

suite = dict(
    title="Pretraining methods -> Mask R-CNN on cutpaste, ResNet-18",
    data="python datasets/prepare_cutpaste.py --images 2000 --val-images 200",
    methods=dict(
        scratch=dict(
            config="",
            trials=[dict(downstream=[f"optimizer.lr={rate}"]) for rate in (3e-4, 1e-3, 2e-3, 3e-3)],
            chosen=1,
            tuned=_UNTUNED,
        ),
        simsiam=dict(
            config="benchmarks/mini/simsiam_R_18.py", trials=_trials(0.025, 0.05), chosen=3, tuned=_UNTUNED
        ),
        moco_v2=dict(
            config="benchmarks/mini/moco_v2_R_18.py", trials=_trials(0.06, 0.12), chosen=3, tuned=_UNTUNED
        ),
        densecl=dict(
            config="benchmarks/mini/densecl_R_18.py", trials=_trials(0.06, 0.12), chosen=3, tuned=_UNTUNED
        ),
    ),
    baseline="scratch",
    tasks=dict(
        mask_rcnn=dict(
            title="Mask R-CNN, ResNet-18 and feature pyramid",
            config="benchmarks/mini/mask_rcnn_R_18.py",
            metrics=["bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"],
        ),
    ),
    # must be equal in all methods: pictures and views, trunk and its initial weights, images seen
    same=dict(
        pretrain=[
            "dataloader",
            "model.backbone",
            "model.in_feature",
            "train.max_iter",
            "train.accumulate",
            "train.amp",
        ],
        downstream=[
            "dataloader",
            "model",
            "lr_multiplier",
            "train",
            "optimizer._target_",
            "optimizer.weight_decay",
        ],
    ),
    select=dict(task="mask_rcnn", metric="segm/AP"),  # what --tune judges trials by
    tuning_seed=1000,
    tiny=dict(
        pretrain=[
            "dataloader.train.dataset.source=coral_train",
            "dataloader.train.mapper.crop_size=64",
            "dataloader.train.total_batch_size=8",
            "dataloader.train.num_workers=0",
            "train.max_iter=4",
            "train.log_period=2",
        ],
        downstream=[
            "dataloader.train.dataset.names=coral_train",
            "dataloader.train.dataset.count=8",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.train.mapper.augmentations.0.target_height=96",
            "dataloader.train.mapper.augmentations.0.target_width=96",
            "dataloader.train.mapper.augmentations.1.crop_size=[96,96]",
            "dataloader.test.dataset.names=coral_val",
            "dataloader.test.mapper.augmentations.0.short_edge_length=96",
            "model.roi_heads.num_classes=4",
            "train.max_iter=4",
            "train.log_period=2",
        ],
    ),
)
