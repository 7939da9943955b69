"""A trunk that makes the steps of a recipe cheap, for tests that are not about what it learns."""

from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from omegaconf import DictConfig

WIDTHS = (8, 16, 32, 64)  # channels of res2 .. res5
QUEUE = 32


def narrow_resnet(norm: str, out_features: list[str], **_: object) -> ResNet:
    """A ResNet of one block per stage and an eighth of the channels."""
    before = (WIDTHS[0], *WIDTHS)
    stages = [
        ResNet.make_stage(BasicBlock, 1, stride_per_block=[stride], in_channels=n, out_channels=m, norm=norm)
        for n, m, stride in zip(before, WIDTHS, (1, 2, 2, 2))
    ]
    return ResNet(BasicStem(out_channels=WIDTHS[0], norm=norm), stages, out_features=list(out_features))


def make_narrow(model: DictConfig) -> None:
    """Gives a pretraining model's node the narrow trunk and, where it has one, a short queue."""
    model.backbone._target_ = narrow_resnet
    model.projection_head.in_channels = WIDTHS[-1]
    if "queue_size" in model:
        model.queue_size = QUEUE
