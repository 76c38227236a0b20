"""Finished steps on disk, so that a crash loses none of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from tfeptq.config import QuantizationConfig


def fingerprint(
    model: keras.Model, samples: Sequence[np.ndarray], config: QuantizationConfig
) -> str:
    """Hash of everything that a step's result depends on."""
    # What augmentation does is in the samples; Keras numbers the names of layers through.
    settings = dataclasses.replace(config, augmentation=None).get_config()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in (*model.get_weights(), *samples):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


class Checkpoint:
    """Results by name below `directory/fingerprint`; without a directory nothing is kept."""

    def __init__(self, directory: str | Path | None, key: str) -> None:
        self._root = Path(directory) / key if directory is not None else None

    def directory(self, name: str) -> Path | None:
        """A folder of its own for a step that keeps its own state."""
        if self._root is None:
            return None
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def arrays(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Loads the arrays called `name`, or computes and keeps them."""
        if self._root is None:
            return compute()
        path = self._root / f"{name}.npz"
        if path.exists():
            with np.load(path) as stored:
                return dict(stored)
        result = compute()
        self._root.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, **result)
        os.replace(partial, path)
        return result
