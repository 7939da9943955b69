"""Mappers: one dataset record in, one training sample out."""

from densessl.data.dataset_mappers.two_view import TwoViewMapper, collate_views

__all__ = ["TwoViewMapper", "collate_views"]
