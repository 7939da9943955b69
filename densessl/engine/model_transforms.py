"""Switches of a run that change how a built model computes, not what it is.

Names in the state dict stay as they are, so a checkpoint does not depend on these switches.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator

import torch
from detectron2.layers import CNNBlockBase
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import nn
from torch.utils.checkpoint import checkpoint

from densessl.errors import ConfigError

_logger = logging.getLogger(__name__)


def replace_sync_bn(model: nn.Module) -> int:
    """Replaces torch's SyncBatchNorm, which needs a GPU, by detectron2's naiveSyncBN; for CPU runs.

    In one process both are plain batch norm. Returns the number of layers replaced.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if not isinstance(child, nn.SyncBatchNorm):
                continue
            new = NaiveSyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            new.load_state_dict(child.state_dict())
            for key, parameter in child.named_parameters():
                getattr(new, key).requires_grad_(parameter.requires_grad)
            setattr(module, name, new.train(child.training))
            count += 1
    if count:
        _logger.info("%d SyncBN layers run as naiveSyncBN: torch's needs a GPU.", count)
    return count


def checkpoint_activations(model: nn.Module) -> int:
    """Recomputes each residual or transformer block in the backward pass instead of keeping its activations.

    Non-reentrant `torch.utils.checkpoint`. While a block is recomputed its batch norms use the batch's
    statistics, as in the first pass, but do not update the running ones a second time.

    Returns:
        the number of blocks.

    Raises:
        ConfigError: the model has no such block.
    """
    blocks = [module for module in model.modules() if _is_block(module)]
    if not blocks:
        raise ConfigError(
            "train.activation_checkpointing=true, but the model has no ResNet or transformer block; "
            "set it to false."
        )
    for block in blocks:
        block.forward = functools.partial(_checkpointed, block, block.forward)
    _logger.info("Activations of %d blocks are recomputed in the backward pass.", len(blocks))
    return len(blocks)


def to_channels_last(model: nn.Module) -> None:
    """Stores convolution weights channels-last; their outputs then are too, whatever the input is."""
    model.to(memory_format=torch.channels_last)


def compile_forward(model: nn.Module) -> None:
    """Compiles the model's forward in place with torch.compile."""
    model.compile()


def _is_block(module: nn.Module) -> bool:
    # timm calls its ResNet blocks BasicBlock and Bottleneck, every ViT (detectron2's too) Block
    return isinstance(module, CNNBlockBase) or type(module).__name__ in ("BasicBlock", "Bottleneck", "Block")


def _checkpointed(block: nn.Module, forward, *args, **kwargs):
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = functools.partial(_pass_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _pass_contexts(block: nn.Module) -> tuple[contextlib.AbstractContextManager, ...]:
    """The contexts of the first pass and of the recomputation."""
    return contextlib.nullcontext(), _frozen_statistics(block)


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # the same operator as in the first pass, so that it saves the same tensors, without effect
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, saved):
            norm.momentum, norm.num_batches_tracked = momentum, counter
