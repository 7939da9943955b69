"""Two views of ImageNet-1k images, augmented as for MoCo v2, DenseCL and SimSiam.

Numbers: facebookresearch/moco main_moco.py:328-344; WXinlong/DenseCL
configs/selfsup/densecl/densecl_imagenet_200ep.py:31-52; facebookresearch/simsiam main_simsiam.py
(`augmentation`): the same in all three.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from densessl.data.build import build_train_loader
from densessl.data.dataset_mappers import TwoViewMapper, collate_views
from densessl.data.sources import build_image_source
from densessl.data.transforms import PhotometricAugmentation

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # --- changes results
    dataset=L(build_image_source)(source="imagenet_1k_train"),
    mapper=L(TwoViewMapper)(
        crop_size=224,
        crop_scale=(0.2, 1.0),
        flip_prob=0.5,
        photometric=L(PhotometricAugmentation)(
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            jitter_prob=0.8,
            grayscale_prob=0.2,
            grayscale_first=False,
            blur_prob=0.5,
            blur_sigma=(0.1, 2.0),
        ),
        # --- changes speed (and rounding): "device" leaves colour and blur to the model
        photometric_on="cpu",
    ),
    total_batch_size=256,  # per optimiser step, over all ranks and micro-batches
    drop_last=True,
    seed="${train.seed}",
    accumulate="${train.accumulate}",
    # --- changes speed
    num_workers=4,  # per rank
    # --- bookkeeping
    collate_fn=collate_views,
    bad_image="raise",
)
