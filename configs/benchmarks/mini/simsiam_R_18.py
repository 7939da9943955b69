"""SimSiam in the miniature benchmark (configs/benchmarks/mini_rcnn.py runs it); not a published recipe.

tools/lazyconfig_train_net.py --config-file configs/benchmarks/mini/simsiam_R_18.py

Blocks do not start as identities, unlike in the authors' code (zero_init_residual): the initial trunk is the
same for all methods.
"""

from ...common.models.simsiam import model
from .common import backbone as _backbone
from .common import dataloader, lr_multiplier, optimizer, train

model.backbone = _backbone
model.projection_head.in_channels = 512
model.projection_head.out_channels = 512
model.prediction_head.hidden_channels = 128
# --fix-pred-lr: the predictor's rate stays constant (simsiam/main_simsiam.py, adjust_learning_rate)
optimizer.params.overrides = [dict(pattern=r"^prediction_head\.", fixed_lr=True)]
train.output_dir = "output/benchmarks/simsiam_R_18"
