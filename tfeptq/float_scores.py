"""Second-order scores of the float model, which are the same whatever widths are tried."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfeptq.checkpoint import Checkpoint, fingerprint
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.label_free import SCORED, channel_attention, weight_scores


class FloatScores:
    """Computed when first asked for, then remembered: a search for widths asks many times.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        seed: of the random probes.
        checkpoint_dir: where scores are kept, for every configuration with this seed.

    Attributes:
        used: what was computed from the float model -> how many samples it looked at.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[np.ndarray],
        seed: int,
        checkpoint_dir: str | Path | None = None,
    ) -> None:
        self._model, self._samples, self._seed = model, samples, seed
        self._checkpoint_dir = checkpoint_dir
        self.used: dict[str, int] = {}

    def note(self, stage: str, count: int | None = None) -> None:
        """Says that a stage looks at the first `count` samples; None: at all."""
        total = len(self._samples[0])
        self.used[stage] = total if count is None else min(count, total)

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """See `tfeptq.hessian.label_free.weight_scores`."""
        self.note("weight scores", SCORED)
        return self._checkpoint.arrays(
            "weight_scores", lambda: weight_scores(self._model, self._samples, seed=self._seed)
        )

    @functools.cached_property
    def attention(self) -> list[np.ndarray]:
        """See `tfeptq.hessian.label_free.channel_attention`."""
        self.note("attention")
        arrays = self._checkpoint.arrays(
            "attention",
            lambda: _numbered(channel_attention(self._model, self._samples, seed=self._seed)),
        )
        return list(arrays.values())

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        key = fingerprint(self._model, self._samples, QuantizationConfig(seed=self._seed))
        return Checkpoint(self._checkpoint_dir, key)


def _numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(index): array for index, array in enumerate(arrays)}
