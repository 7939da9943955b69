"""The detector of mask_rcnn_R_18_cutpaste_random.py, same budget and seed, from a DenseCL trunk.

    tools/lazyconfig_train_net.py --config-file configs/quickstart/mask_rcnn_R_18_cutpaste_densecl.py \\
        train.init_checkpoint=output/quickstart/densecl_R_18_cutpaste/model_final.pth

Cost and AP: docs/benchmarks.md.
"""

from .mask_rcnn_R_18_cutpaste_random import dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = "output/quickstart/densecl_R_18_cutpaste/model_final.pth"
train.output_dir = "output/quickstart/mask_rcnn_R_18_cutpaste_densecl"
