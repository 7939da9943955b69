"""A few annotated pictures of a data set: the case that pretraining is for."""

from collections.abc import Sequence

from detectron2.data import get_detection_dataset_dicts

from densessl.errors import DataError


def labelled_subset(names: str | Sequence[str], count: int) -> list[dict]:
    """`count` annotated records, evenly spaced in the order of the data set; always the same ones.

    Args:
        names: as for detectron2's `get_detection_dataset_dicts`, which leaves out pictures without objects.
        count: how many to take.

    Raises:
        DataError: there are fewer.
    """
    records = get_detection_dataset_dicts(names)
    if not 1 <= count <= len(records):
        raise DataError(
            f"labelled_subset: count={count} of {names}, which has {len(records)} pictures with objects; "
            "build a larger set, or set dataloader.train.dataset.count."
        )
    return [records[index * len(records) // count] for index in range(count)]
