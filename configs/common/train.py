"""Everything about a run that is neither model, data, optimiser nor lr schedule."""

train = dict(
    # --- bookkeeping
    output_dir="./output",
    log_period=20,  # iterations between log lines; losses stay on the device in between
    eval_period=5000,  # 0: only at the end
    checkpointer=dict(period=5000, max_to_keep=2),
    wandb=dict(enabled=False, project="densessl"),
    # --- changes results
    init_checkpoint="",  # weights only; --resume continues a run exactly
    allow_partial=False,  # start although tensors of the trunk find no value in init_checkpoint
    max_iter=90000,  # optimiser steps
    seed=0,
    accumulate=1,  # micro-batches per optimiser step; total_batch_size counts all of them
    clip_grad=dict(norm=None, value=None),
    # lr = optimizer.lr * batch / base_batch, printed; None: the batch that the config file states, before
    # overrides. A file that changes the batch of a recipe it imports writes the recipe's here.
    lr_scaling=dict(enabled=False, base_batch=None),
    bad_annotations="raise",  # "drop": faulty COCO and LVIS annotations are left out, counted and listed
    schedules=[],  # densessl.engine.Schedule nodes besides lr_multiplier
    hooks=[],  # detectron2 HookBase nodes
    ema=dict(
        enabled=False, module="", momentum=0.9998
    ),  # averaged copy of model.<module>, "" is the whole model
    # --- changes speed (and rounding)
    device="auto",  # auto: CUDA where there is one, else CPU
    amp=dict(enabled=True, dtype="auto"),  # auto: bfloat16 where the device computes in it
    compile=False,
    channels_last=False,
    activation_checkpointing=False,
    deterministic=False,  # deterministic kernels on CUDA, slower; CPU runs are bit-exact either way
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
)
