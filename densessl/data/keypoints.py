"""What a flip does to keypoints."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from densessl.errors import ConfigError


def keypoint_flip_indices(dataset_names: str | Sequence[str]) -> list[int]:
    """For each keypoint the index of the one on the other side (left eye -> right eye), else its own.

    Args:
        dataset_names: registered names; all must have the same keypoints.

    Raises:
        ConfigError: a data set without keypoint metadata, or data sets whose keypoints differ.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    for name in names:
        for field in ("keypoint_names", "keypoint_flip_map"):
            if MetadataCatalog.get(name).get(field) is None:
                raise ConfigError(
                    f"dataloader.train.mapper.keypoint_hflip_indices: data set {name!r} has no {field!r} in "
                    "its metadata, so its keypoints cannot be flipped. Set it where the data set is "
                    "registered (MetadataCatalog.get(name).set(...)), or use a keypoint data set such as "
                    "keypoints_coco_2017_train."
                )
    try:
        return create_keypoint_hflip_indices(names)
    except ValueError as error:  # different keypoints, or a flip map that names one that is not there
        raise ConfigError(f"dataloader.train.mapper.keypoint_hflip_indices of {names}: {error}") from error
