"""detectron2's RetinaNet, made to resume exactly.

"Focal Loss for Dense Object Detection" (https://arxiv.org/abs/1708.02002);
detectron2/modeling/meta_arch/retinanet.py.
"""

from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import Tensor

from densessl.layers.rank_mean import rank_mean


@META_ARCH_REGISTRY.register()
class ResumableRetinaNet(RetinaNet):
    """`RetinaNet` whose loss normaliser, a running mean of positive anchors per batch, is in checkpoints.

    The arithmetic is detectron2's: m = 0.9 m + 0.1 n with this batch's n before the losses are divided by m;
    m starts at 100. detectron2 keeps m in a Python attribute, so a resumed run starts at 100 again. Beside
    that: n is the mean over ranks (detectron2 has one m per process), so that the one value saved is every
    process's; with several micro-batches m advances once per step, by their mean; a step that is not
    performed, and the passes of `PreciseBNHook`, leave m alone.

    Arguments are those of `RetinaNet`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # float64 as detectron2's Python number
        self.register_buffer("loss_normalizer", torch.tensor(100.0, dtype=torch.float64))
        self._pending: list[Tensor] = []

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> Tensor:
        """The normaliser with this batch's count; stored by `after_optimizer_step`."""
        count = torch.tensor(value, dtype=torch.float64, device=self.loss_normalizer.device)
        new = self.loss_normalizer * momentum + rank_mean(count) * (1 - momentum)
        self._pending.append(new)
        return new.float()  # a float64 tensor would make the losses float64

    def after_optimizer_step(self, skip: Tensor | None = None) -> None:
        """Stores the normaliser of the step.

        Args:
            skip: 0-dim tensor on the device; where true nothing changes.
        """
        if self._pending:
            new = torch.stack(self._pending).mean()
            if skip is not None:
                new = torch.where(skip.to(torch.bool), self.loss_normalizer, new)
            self.loss_normalizer.copy_(new)
        self.discard_pending()

    def discard_pending(self) -> None:
        """Forgets the counts of a step that was not performed."""
        self._pending.clear()
