"""Features of a ResNet's five stages for a list of images, kept on disk in parts.

Source: WXinlong/DenseCL tools/extract.py (trunk in evaluation mode, published pooling windows). Images are
prepared by `SquareMapper`. A run that was stopped goes on behind the last finished part.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from densessl.data.build import build_test_loader
from densessl.data.dataset_mappers import SquareMapper
from densessl.data.records import names_digest
from densessl.errors import ConfigError, DataError
from densessl.layers.stage_pooling import pool_stage, stage_maps

logger = logging.getLogger(__name__)
FACTS = "facts.json"
PART_IMAGES = 512  # images per file: 19 MB of one stage of ResNet-50


def write_atomically(path: Path, write: Any) -> None:
    """Calls `write(file)` on a temporary file beside `path` and renames it.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing stands under `path` then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Make room or choose another --output; run "
            "again to go on from what is there"
        ) from error


def require_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Notes in `folder` what its files were computed from, or compares with what is noted there.

    Args:
        facts: JSON types.

    Raises:
        ConfigError: other facts are noted; names the first that differs.
    """
    path = folder / FACTS
    if not path.exists():
        text = json.dumps(facts, indent=1, sort_keys=True).encode()
        write_atomically(path, lambda file: file.write(text))
        return
    try:
        noted = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Remove the folder {folder} and run again") from error
    for key in sorted(facts.keys() | noted.keys()):
        if facts.get(key) != noted.get(key):
            raise ConfigError(
                f"{folder} holds results for {key} = {noted.get(key)!r}, and this run has "
                f"{facts.get(key)!r}. Choose another --output, or remove that folder."
            )


class StageFeatures:
    """Computes and reads features: `<folder>/<stage>/<split>/<first image>.npy`, a file per 512 images.

    Args:
        model: has `backbone` (detectron2 ResNet) and `collect_images`, as `PooledFeatures`; in evaluation
            mode.
        folder: of the part files.
        stages: some of conv1, res2 ... res5.
        mapper: from a record to {"image": (3, H, W) uint8}.
        pooling: "specified" or "adaptive", see densessl/layers/stage_pooling.py.
        batch_size: images at once.
        num_workers: processes that load images.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        stages: Sequence[str],
        mapper: SquareMapper,
        pooling: str = "specified",
        batch_size: int = 32,
        num_workers: int = 2,
    ):
        self.model, self.folder, self.stages = model, folder, tuple(stages)
        self.mapper, self.pooling = mapper, pooling
        self.batch_size, self.num_workers = batch_size, num_workers

    def extract(self, split: str, records: Sequence[dict[str, Any]]) -> None:
        """Makes the parts of a split that are not there yet.

        Args:
            split: name of the folder.
            records: N records with `file_name` and `image_id`.

        Raises:
            ConfigError: the folder holds features of other images.
            DataError: an image cannot be read, or the disk is full.
        """
        for stage in self.stages:
            facts = {"images": len(records), "names_sha256": names_digest(records)}
            require_facts(self.folder / stage / split, facts)
        for start in range(0, len(records), PART_IMAGES):
            missing = [stage for stage in self.stages if not self._part(stage, split, start).exists()]
            if not missing:
                continue
            part = list(records[start : start + PART_IMAGES])
            for stage, values in self._compute(part, missing).items():
                path = self._part(stage, split, start)
                write_atomically(path, lambda file, values=values: np.save(file, values))
            logger.info("%s: features of %d of %d images", split, start + len(part), len(records))

    def load(self, split: str, stage: str, count: int) -> np.ndarray:
        """float32 (N, D) features of `stage` of the `count` images of a split."""
        parts = []
        for start in range(0, count, PART_IMAGES):
            path = self._part(stage, split, start)
            try:
                parts.append(np.load(path, allow_pickle=False))
            except (ValueError, OSError, EOFError) as error:
                raise DataError(f"{path} is damaged: {error}. Remove it and run again") from error
        return np.concatenate(parts)

    def _part(self, stage: str, split: str, start: int) -> Path:
        return self.folder / stage / split / f"{start:07d}.npy"

    @torch.no_grad()
    def _compute(self, records: list[dict[str, Any]], stages: Sequence[str]) -> dict[str, np.ndarray]:
        """{stage: (n, D)} of some images."""
        loader = build_test_loader(
            records, mapper=self.mapper, batch_size=self.batch_size, num_workers=self.num_workers
        )
        found: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
        for batch in loader:
            maps = stage_maps(self.model.backbone, self.model.collect_images(batch), stages)
            for stage, feature in maps.items():
                found[stage].append(pool_stage(feature, stage, self.pooling).flatten(1).cpu().numpy())
        return {stage: np.concatenate(values) for stage, values in found.items()}
