"""MDC, modified DeepCluster, ResNet-18 (janghyuncho/PiCIE train_mdc.py): one view, a trained classifier."""

from detectron2.config import LazyCall as L

from densessl.modeling.heads import ClusterClassifier

from .picie import model

model.num_views = 1
model.classifier = L(ClusterClassifier)(
    in_channels="${..backbone.out_channels}",
    num_clusters="${..num_clusters}",
    std=0.01,  # train_mdc.py:193-205
)
