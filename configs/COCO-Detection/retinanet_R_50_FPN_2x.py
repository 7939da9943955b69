"""RetinaNet R50-FPN on COCO, 2x: twice the iterations of the 1x recipe, see there.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: mmselfsup configs/benchmarks/detectron2/coco_R_50_RetinaNet_2x_moco.yaml. Not run at full length here.
"""

from ..common.schedule import multistep
from .retinanet_R_50_FPN_1x import dataloader, model, optimizer, train

lr_multiplier, train.max_iter = multistep(max_iter=180000, milestones=(120000, 160000), warmup_iters=1000)

# --- bookkeeping
train.output_dir = "output/retinanet_R_50_FPN_2x"
