"""The epoch of a training whose quantized copy scores best."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from tfeptq.model import QuantizedModel
from tfeptq.settings import member

MODES = ("auto", "max", "min")
#: Parts of names of metrics that are better when they are larger, or smaller.
_LARGER = ("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "dice", "similarity", "r2")
_SMALLER = ("loss", "error", "mse", "mae", "mape", "msle", "entropy", "divergence", "hinge")


class BestEpoch:
    """Remembers the float weights and the quantized copy of the best epoch so far.

    Args:
        monitored: name of a score, `quantized_<metric>`.
        mode: "max", "min", or "auto", which goes by the name.

    Attributes:
        epoch: of the best, from 1 on; None: nothing was scored yet.
        quantized: its copy, by calibration alone.
        score: of that.

    Raises:
        ValueError: an unknown mode, or a name that does not tell.
    """

    def __init__(self, monitored: str, mode: str) -> None:
        self.monitored, self.mode = monitored, mode
        self._sign = _sign(monitored, mode)
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self.epoch: int | None = None
        self.quantized: QuantizedModel | None = None
        self.score = float("nan")
        self._weights: list[np.ndarray] = []

    def improves(self, score: float) -> bool:
        """Whether a score is better than the best; NaN never is."""
        if np.isnan(score):
            return False
        return self.epoch is None or self._sign * score > self._sign * self.score

    def offer(
        self, epoch: int, scores: Mapping[str, float], model: keras.Model, copy: QuantizedModel
    ) -> bool:
        """Takes an epoch if it is the best; whether it is."""
        if not self.improves(scores[self.monitored]):
            return False
        self.epoch, self.score, self.quantized = epoch, scores[self.monitored], copy
        self._weights = model.get_weights()
        return True

    @contextlib.contextmanager
    def weights_in(self, model: keras.Model) -> Iterator[None]:
        """The model has the weights of the best epoch, and gets its own back."""
        own = model.get_weights()
        try:
            model.set_weights(self._weights)
            yield
        finally:
            model.set_weights(own)


def _sign(monitored: str, mode: str) -> float:
    if member("mode", mode, MODES) != "auto":
        return 1.0 if mode == "max" else -1.0
    name = monitored.lower()
    larger, smaller = (any(part in name for part in parts) for parts in (_LARGER, _SMALLER))
    if larger == smaller:
        raise ValueError(
            f"save_best={monitored!r}: its name does not tell whether more is better; give "
            "mode='max' or mode='min'"
        )
    return 1.0 if larger else -1.0
