"""Which diagnostics there are, what each needs, and all of them on one set of images.

N images, C channels, (h, w) cells, K classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from densessl.data.decode import decode_image
from densessl.diagnostics.clusters import cluster_miou
from densessl.diagnostics.discovery import corloc
from densessl.diagnostics.features import TrunkFeatures
from densessl.diagnostics.images import (
    BOXES,
    CLASS,
    IGNORE,
    NO_CLASS,
    SEMANTIC,
    ProbeImages,
    load_images,
    open_records,
    square,
    stack_images,
)
from densessl.diagnostics.linear_probe import linear_miou
from densessl.diagnostics.retrieval import retrieval_miou
from densessl.diagnostics.segmentation import cell_shares
from densessl.diagnostics.spectrum import alignment, effective_rank, uniformity
from densessl.diagnostics.stereo import disparity_pairs
from densessl.errors import ConfigError, DataError
from densessl.losses.cosine import feature_spread
from densessl.visualization.correspondences import MatchAccuracy, count_matches, match_accuracy
from densessl.visualization.views import view_pair

NEEDS = {  # what the data set must have
    "spectrum": None,
    "correspondence": None,
    "stereo": None,  # has a data set of its own
    "retrieval": SEMANTIC,
    "linear": SEMANTIC,
    "clusters": SEMANTIC,
    "knn": CLASS,
    "discovery": BOXES,
}
DEFAULT = ("spectrum", "correspondence")  # any photographs will do
WITH_MEMORY = ("retrieval", "linear", "knn")  # learn from some images and are scored on others
PAIRS = 2  # views of each image: one mirrored, one not
MAX_CELLS = 1024  # of all images together, for the rank: a second on one core at 2048 channels
NEIGHBOURS, TEMPERATURE = 10, 0.07  # images; facebookresearch/dino eval_knn.py takes 10 and more of ImageNet


class DiagnosticsSuite:
    """Reads the images once; each call scores the features of one trunk on them.

    Args:
        dataset: registered name, or a path for diagnostics without labels.
        diagnostics: some of NEEDS.
        memory_dataset: whose labels retrieval, linear and knn may use. None: every second image of `dataset`
            is the memory and the others are scored.
        num_images: images of each data set, spread evenly over it.
        image_size: pixels a side; a multiple of the feature's stride.
        stereo_dataset: as datasets/prepare_stereo.py builds it.
        stereo_size: pixels a side of each picture of the pair. At stride 32 the disparities of `stereo`, 1 to
            8 % of the width, are too small to be seen below some 700.

    Raises:
        ConfigError: an unknown diagnostic or a number out of range.
        DataError: images or labels are missing.
    """

    def __init__(
        self,
        dataset: str,
        diagnostics: Sequence[str] = DEFAULT,
        memory_dataset: str | None = None,
        num_images: int = 32,
        image_size: int = 224,
        stereo_dataset: str = "stereo",
        stereo_size: int = 768,
    ) -> None:
        _check(diagnostics, num_images)
        self.names = [name for name in NEEDS if name in diagnostics]
        self.image_size, self.stereo_size = image_size, stereo_size
        needs = {NEEDS[name] for name in self.names} - {None}
        self.probe = load_images(dataset, num_images, image_size, needs)
        self.memory = None
        if memory_dataset is not None and set(self.names) & set(WITH_MEMORY):
            self.memory = load_images(memory_dataset, num_images, image_size, needs - {BOXES})
            _check_same_classes(dataset, self.probe, memory_dataset, self.memory)
        elif set(self.names) & set(WITH_MEMORY) and len(self.probe.images) < 2:
            raise DataError(f"diagnostics: {dataset!r} has one image; name another set as memory_dataset.")
        elif set(self.names) & set(WITH_MEMORY):
            _check_halves(dataset, self.probe)
        self._views = _cut_views(self.probe, image_size) if "correspondence" in self.names else None
        self._stereo = _read_stereo(stereo_dataset, stereo_size) if "stereo" in self.names else None
        for part in filter(None, (self.probe, self.memory)):
            part.photographs.clear()  # they may be large, and their views are cut

    def check(self, extract: TrunkFeatures) -> None:
        """Raises ConfigError where the image sizes do not suit the trunk."""
        extract.check_size("image_size", self.image_size)
        if self._stereo is not None:
            extract.check_size("stereo_size", self.stereo_size)

    def __call__(self, extract: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Scores one trunk.

        Args:
            extract: (N, 3, S, S) uint8 RGB -> (N, C, h, w) float32 on the CPU; see `TrunkFeatures`.

        Returns:
            the numbers of docs/diagnostics.md by name.
        """
        features = extract(self.probe.images)  # (N, C, h, w)
        memory = None if self.memory is None else extract(self.memory.images)
        found: dict[str, float] = {}
        if "spectrum" in self.names:
            found |= _spectrum(features)
        if "correspondence" in self.names:
            found |= self._correspondence(extract)
        if "stereo" in self.names:
            found |= self._disparity(extract)
        if "clusters" in self.names:
            found["cluster_miou"] = cluster_miou(*_cells(features, self.probe))
        if "discovery" in self.names:
            found["corloc"] = corloc(features, self.probe.boxes)
        if set(self.names) & set(WITH_MEMORY):
            found |= self._learned(features, memory)
        return found

    def _correspondence(self, extract: Callable[[Tensor], Tensor]) -> dict[str, float]:
        views, geometry = self._views
        first, second = extract(views[0]), extract(views[1])  # (N * PAIRS, C, h, w)
        total = MatchAccuracy()
        for query, key, places in zip(first, second, geometry, strict=True):
            total += match_accuracy(query, key, *places)
        return {
            **_shares("correspondence", total),
            "alignment": alignment(first.mean((2, 3)), second.mean((2, 3))),
        }

    def _disparity(self, extract: Callable[[Tensor], Tensor]) -> dict[str, float]:
        pictures, disparity = self._stereo
        left, right = extract(pictures)  # (C, h, w)
        correct, counted = disparity_pairs(tuple(left.shape[1:]), disparity)
        if not counted.any():
            raise ConfigError(
                f"diagnostics: at stereo_size={self.stereo_size} nothing in the pair moves by more than one "
                f"of the {left.shape[2]} cells of a row; use a larger size."
            )
        return _shares("stereo", count_matches(left, right, correct, counted))

    def _learned(self, features: Tensor, memory: Tensor | None) -> dict[str, float]:
        """The diagnostics that use labels of other images."""
        images = torch.arange(len(features))
        known, asked = (images[::2], images[1::2]) if memory is None else (None, images)
        source, reference = (self.probe, features) if memory is None else (self.memory, memory)
        found = {}
        if "retrieval" in self.names or "linear" in self.names:
            query = _cells(features, self.probe, asked)
            bank = _cells(reference, source, known)
            if "retrieval" in self.names:
                found["retrieval_miou"] = retrieval_miou(*query, *bank)
            if "linear" in self.names:
                found["linear_miou"] = linear_miou(*bank, *query)
        if "knn" in self.names:
            found["knn_top1"] = _image_knn(
                *_pooled(features, self.probe, asked), *_pooled(reference, source, known)
            )
        return found


def _check(diagnostics: Sequence[str], num_images: int) -> None:
    for name in diagnostics:
        if name not in NEEDS:
            close = difflib.get_close_matches(name, NEEDS, n=1)
            hint = f" Nearest: {close[0]}." if close else ""
            raise ConfigError(f"diagnostics: {name!r} is none of {', '.join(NEEDS)}.{hint}")
    if not diagnostics:
        raise ConfigError(f"diagnostics: the list is empty; name some of {', '.join(NEEDS)}.")
    if num_images < 2:
        raise ConfigError(f"diagnostics: num_images={num_images} must be at least 2.")


def _check_same_classes(dataset: str, probe: ProbeImages, memory_dataset: str, memory: ProbeImages) -> None:
    if probe.num_classes != memory.num_classes:
        raise DataError(
            f"diagnostics: {dataset!r} has {probe.num_classes} classes and memory_dataset {memory_dataset!r} "
            f"{memory.num_classes}; they must be parts of one data set."
        )


def _check_halves(dataset: str, probe: ProbeImages) -> None:
    """Without a memory every second image is learned from and the others are scored: both need labels."""
    for half in (slice(None, None, 2), slice(1, None, 2)):
        unlabelled = probe.labels is not None and (probe.labels[half] == IGNORE).all()
        if unlabelled or (probe.classes is not None and (probe.classes[half] == NO_CLASS).all()):
            raise DataError(
                f"diagnostics: every second image of {dataset!r} is without labels, so that nothing can be "
                "learned or scored; name another set as memory_dataset, or raise num_images."
            )


def _cut_views(probe: ProbeImages, size: int) -> tuple[tuple[Tensor, Tensor], list]:
    """PAIRS pairs of views of each photograph, and where they lie in it."""
    pairs = [
        view_pair(photograph, size, seed=index * PAIRS + repeat)
        for index, photograph in enumerate(probe.photographs)
        for repeat in range(PAIRS)
    ]
    views = tuple(stack_images([pair.images[side] for pair in pairs]) for side in (0, 1))
    return views, [pair.geometry for pair in pairs]


def _read_stereo(dataset: str, size: int) -> tuple[Tensor, np.ndarray]:
    """(2, 3, size, size) uint8 left and right picture, and (H, W) disparity of the unscaled ones."""
    record = open_records(dataset)[0][0]
    if "disparity_file_name" not in record:
        raise DataError(
            f"diagnostics: stereo_dataset={dataset!r} has no disparity; `python datasets/prepare_stereo.py` "
            "builds one that has."
        )
    pictures = [decode_image(record[key]) for key in ("file_name", "right_file_name")]
    with np.load(record["disparity_file_name"], allow_pickle=False) as archive:
        disparity = archive["disparity"]
    return stack_images([square(picture, size) for picture in pictures]), disparity


def _spectrum(features: Tensor) -> dict[str, float]:
    pooled = features.mean((2, 3))  # (N, C)
    cells = _rows(features)
    chosen = cells[:: -(-len(cells) // MAX_CELLS)]
    return {
        "image_rank": effective_rank(pooled),
        "cell_rank": effective_rank(chosen),
        "image_spread": float(feature_spread(pooled)["std"]),
        "cell_spread": float(feature_spread(chosen)["std"]),
        "uniformity": uniformity(pooled),
    }


def _shares(name: str, total: MatchAccuracy) -> dict[str, float]:
    cells = max(total.cells, 1)
    return {name: 100 * total.nearest_correct / cells, f"{name}_chance": 100 * total.chance / cells}


def _rows(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N*h*w, C)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def _cells(features: Tensor, probe: ProbeImages, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n*h*w, C) cells of the chosen images (None: all) and (n*h*w, K) shares of their classes."""
    indices = range(len(features)) if chosen is None else chosen.tolist()
    map_size = tuple(features.shape[2:])
    shares = [cell_shares(probe.labels[index], map_size, probe.num_classes) for index in indices]
    return _rows(features[list(indices)]), torch.cat(shares)


def _pooled(features: Tensor, probe: ProbeImages, chosen: Tensor | None) -> tuple[Tensor, np.ndarray]:
    """(n, C) mean features and (n,) classes of the chosen images (None: all) that have a class."""
    indices = np.arange(len(features)) if chosen is None else chosen.numpy()
    indices = indices[probe.classes[indices] != NO_CLASS]
    return features[indices].mean((2, 3)), probe.classes[indices]


def _image_knn(query: Tensor, labels: np.ndarray, memory: Tensor, memory_labels: np.ndarray) -> float:
    """Percent of the images whose class wins the vote of their nearest images.

    Args:
        query: (Q, C) and their labels (Q,); memory: (R, C) and their labels (R,).
    """
    from densessl.evaluation.knn_evaluation import nearest, vote  # at call: imports d2's evaluators

    def unit(rows: Tensor) -> np.ndarray:
        return torch.nn.functional.normalize(rows, dim=1).numpy()

    rows = np.stack([np.arange(len(memory_labels)), memory_labels], axis=1)
    cosine, _, neighbours = nearest(unit(query), unit(memory), rows, NEIGHBOURS)
    places = vote(cosine, neighbours, labels, TEMPERATURE, "weighted")
    return 100.0 * float((places < 1).mean())
