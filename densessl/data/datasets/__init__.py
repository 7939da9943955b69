"""Names of data sets: `builtin` (images only), `sample` (from datasets/prepare_*.py), COCO subsets, LVIS."""


def register_datasets() -> None:
    """Registers this project's names in detectron2's DatasetCatalog, once; no data set is opened.

    detectron2 registers its own (COCO, LVIS, VOC, Cityscapes) when `detectron2.data` is imported.
    """
    import densessl.data.datasets.builtin
    import densessl.data.datasets.coco_subsets
    import densessl.data.datasets.lvis
    import densessl.data.datasets.sample  # noqa: F401
