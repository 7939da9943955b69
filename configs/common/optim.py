"""Optimisers. `params.model` is filled in by the trainer, as in detectron2."""

import torch
from detectron2.config import LazyCall as L

from densessl.solver import get_param_groups

# fused=True: one kernel for all tensors; 1.6x (SGD) and 2.6x (AdamW) the default on CPU
SGD = L(torch.optim.SGD)(
    params=L(get_param_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=0.03,
    momentum=0.9,
    weight_decay=1e-4,
    fused=True,
)

AdamW = L(torch.optim.AdamW)(
    params=L(get_param_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    fused=True,
)

Adam = L(torch.optim.Adam)(
    params=L(get_param_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    fused=True,
)

# NVIDIA apex LARC(SGD, trust_coefficient, clip=False), as facebookresearch/simsiam main_lincls.py wraps it:
# each tensor's gradient times trust_coeff |w| / (|g| + weight_decay |w| + eps), and 1 for a tensor that is
# still zero
LARS = L("timm.optim.Lars")(
    params=L(get_param_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=1.6,
    momentum=0.9,
    weight_decay=0.0,
    trust_coeff=0.001,
    eps=1e-8,
    trust_clip=False,
    always_adapt=True,  # timm would leave tensors without weight decay alone
)
