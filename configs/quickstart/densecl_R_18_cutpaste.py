"""DenseCL on the training pictures of `cutpaste`; otherwise densecl_R_18_coral.py.

python datasets/prepare_cutpaste.py
tools/lazyconfig_train_net.py --config-file configs/quickstart/densecl_R_18_cutpaste.py
"""

from .densecl_R_18_coral import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.source = "cutpaste_train"
train.hooks[0].dataset, train.hooks[0].memory_dataset = "cutpaste_val", "cutpaste_train"
train.output_dir = "output/quickstart/densecl_R_18_cutpaste"
