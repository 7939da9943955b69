"""SOLOv2 R50-FPN on COCO, 1x, as AdelaiDet compares self-supervised trunks.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: AdelaiDet configs/DenseCL/SOLOv2_R50_1x_DenseCL.yaml and its bases SOLOv2_R50_1x.yaml and
configs/SOLOv2/Base-SOLOv2.yaml. What the heads compute is held against AdelaiDet's code by
tests/modeling/test_solov2_golden.py.
Mask AP published there (configs/DenseCL/README.md), pretrained on ImageNet: supervised 35.2, MoCo-v2 35.2,
DenseCL 35.7. Cost published for 3x (configs/SOLOv2/README.md): about 25 h on 8 V100. Not run at full length
here.

To have AdelaiDet itself fine-tune the same trunk: convert it to detectron2's names (stem.conv1.weight,
res2.0.conv1.weight ...) in a .pkl of {"model", "__author__", "matching_heuristics": True}, and keep in its
config RESNETS.STRIDE_IN_1X1 False, INPUT.FORMAT "RGB", PIXEL_MEAN [123.675, 116.280, 103.530], PIXEL_STD
[58.395, 57.120, 57.375], BACKBONE.FREEZE_AT 0, RESNETS.NORM and FPN.NORM "SyncBN", TEST.PRECISE_BN.ENABLED
True, as SOLOv2_R50_1x_DenseCL.yaml has them. Its supervised row starts from detectron2's MSRA R-50.pkl, which
needs the other convention (stride in the 1x1 convolution, BGR, no division by a deviation).

Differences: both losses are divided by the positives of all processes (`model.normalize_over_ranks=False`
takes those of each, as AdelaiDet does); boxes of the results are those of the masks, AdelaiDet's are zeros.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_instance import dataloader
from ..common.models.solov2_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# Base-SOLOv2.yaml: INPUT.MASK_FORMAT "bitmask"
dataloader.train.mapper.instance_mask_format = "bitmask"
# Base-SOLOv2.yaml: lr 0.01 at batch 16, 90k iterations, a tenth at 60k and 80k, warm-up from a hundredth over
# 1000; detectron2/config/defaults.py: weight decay 1e-4 and none for norms (SOLVER.WEIGHT_DECAY_NORM)
optimizer.lr = 0.01
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(
    max_iter=90000, milestones=(60000, 80000), warmup_iters=1000, warmup_factor=0.01
)
# SOLOv2_R50_1x.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: TEST.PRECISE_BN.NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/solov2_R_50_FPN_1x"
