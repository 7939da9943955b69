"""Mappers: one dataset record in, one training sample out."""

from densessl.data.dataset_mappers.classification import (
    CenterCropMapper,
    RandomCropMapper,
    SquareMapper,
    collate_labelled,
)
from densessl.data.dataset_mappers.cluster_view import (
    ClusterViewMapper,
    LabelledSquareMapper,
    collate_cluster_views,
)
from densessl.data.dataset_mappers.two_view import TwoViewMapper, collate_views

__all__ = [
    "CenterCropMapper",
    "ClusterViewMapper",
    "LabelledSquareMapper",
    "RandomCropMapper",
    "SquareMapper",
    "TwoViewMapper",
    "collate_cluster_views",
    "collate_labelled",
    "collate_views",
]
