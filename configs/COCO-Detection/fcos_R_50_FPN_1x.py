"""FCOS R50-FPN on COCO, 1x, in its authors' form, SyncBN in trunk and pyramid.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The FCOS of DenseCL's table: AdelaiDet configs/DenseCL/FCOS_R50_1x_DenseCL.yaml. AdelaiDet's figures, box AP,
ImageNet pretraining: supervised 39.9, MoCo-v2 40.3, DenseCL 40.9. Not run at full length here.

`AuthorsFCOS` lists what it takes from AdelaiDet where detectron2's FCOS is another recipe. What remains
different from AdelaiDet:
- tensors have detectron2's names: head.{cls_subnet,bbox_subnet,cls_score,bbox_pred,ctrness,scales.<level>},
  there proposal_generator.fcos_head.{cls_tower,bbox_tower,cls_logits,bbox_pred,ctrness,scales.<level>.scale};
- where several detections tie for the hundredth score, 100 are kept, there all of them;
- with train.accumulate > 1 the counts that losses are divided by are those of a micro-batch;
- logits, distances and losses are float32 under train.amp (there everything is; train.amp.enabled=False).
Equal, checked once against AdelaiDet at 3672122 (losses to 1e-6, detections and head bit for bit) and, in
tests/modeling/test_fcos.py, against slow rules: points (stride / 2 from the corner), GN, initial weights,
centre sampling of 1.5 strides inside the box, least area, distances in strides, factor per level, ReLU,
centre-ness on the box branch, focal loss, NMS 0.6 on unclipped boxes, 1000 candidates per level. P6 and P7
read P5 in both.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_detection import dataloader
from ..common.models.fcos import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# configs/FCOS-Detection/Base-FCOS.yaml: lr 0.01 at batch 16, 90k iterations, a tenth at 60k and 80k, min
# {640..800}; detectron2/config/defaults.py: 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.01
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=90000, milestones=(60000, 80000), warmup_iters=1000)
# FCOS_R50_1x.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/fcos_R_50_FPN_1x"
