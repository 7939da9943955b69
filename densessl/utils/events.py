"""Numbers that a model reports beside its losses."""

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor


# traced by torch.compile it would depend on the iteration, and every step would be compiled anew
@torch.compiler.disable
def log_metric(name: str, value: Tensor) -> None:
    """Puts a scalar into the current event storage, or nowhere when there is none (unit use).

    Args:
        name: "<method>/<number>", e.g. "densecl/match_distinct".
        value: 0-dim tensor; kept on its device until the trainer's storage writes its lines.
    """
    if has_event_storage():
        get_event_storage().put_scalar(name, value.detach())
