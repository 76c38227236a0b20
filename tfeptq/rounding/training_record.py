"""How a distillation went: what its losses and the network that would ship were, epoch by epoch.

The loss says little: the rounding hardens on the way, which raises it. What falls when things get
better is the error of the network as it would be rounded now: that is measured, on a few samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.model import QuantizedModel
from tfeptq.rounding.safeguard import OutputErrors

#: Enough to see where it goes.
SAMPLES = 32
_LOGGED = ("loss", "distillation", "rounding", "error", "settled")


@dataclasses.dataclass(frozen=True)
class TrainingRow:
    """One epoch.

    Attributes:
        step: steps done.
        loss, distillation, rounding: of the last step: the sum and its parts.
        error: of the network as it would be rounded now: root of the mean squared error of the
            outputs over their variance, on calibration samples.
        settled: share of the weights whose rounding is decided to 1 %.
        soft_share, float_share: of the soft rounding and of float activations in the last step.
    """

    step: int
    loss: float
    distillation: float
    rounding: float
    error: float
    settled: float
    soft_share: float
    float_share: float


class TrainingRecord(keras.callbacks.Callback):
    """Adds `error` and `settled` to the logs of every epoch; belongs before all other callbacks.

    Attributes:
        rows: what was recorded, in order.
    """

    def __init__(
        self, quantized: QuantizedModel, teacher: keras.Model, samples: Sequence[np.ndarray]
    ) -> None:
        super().__init__()
        self._quantized, self._errors = quantized, OutputErrors(teacher, samples, count=SAMPLES)
        self.rows: list[TrainingRow] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        logs["settled"] = settled_share(self._quantized)
        soft_share, float_share = _shares(self._quantized)
        with hardened(self._quantized):
            logs["error"] = self._errors.of(self._quantized)
        self.rows.append(
            TrainingRow(
                step=int(self.model.optimizer.iterations.numpy()),
                **{name: float(logs[name]) for name in _LOGGED},
                soft_share=soft_share,
                float_share=float_share,
            )
        )

    def array(self) -> np.ndarray:
        """The rows as float64, (rows, fields)."""
        names = [field.name for field in dataclasses.fields(TrainingRow)]
        values = [dataclasses.astuple(row) for row in self.rows]
        return np.array(values, np.float64).reshape(-1, len(names))

    def restore(self, array: np.ndarray) -> None:
        """Takes over the rows of a training that goes on."""
        self.rows = [TrainingRow(int(step), *rest) for step, *rest in array.tolist()]


@contextmanager
def hardened(quantized: QuantizedModel) -> Iterator[None]:
    """The network as it would be rounded now, with all activations quantized."""
    shares = [layer.soft_share for layer in quantized.weighted_layers]
    shares += [quantizer.float_share for quantizer in quantized.activation_quantizers]
    values = [ops.convert_to_numpy(share) for share in shares]
    try:
        for share in shares:
            share.assign(0.0)
        yield
    finally:
        for share, value in zip(shares, values, strict=True):
            share.assign(value)


def settled_share(quantized: QuantizedModel) -> float:
    """Of all weights, those whose soft rounding is within 1 % of up or down."""
    shares = [layer.upper_shares() for layer in quantized.weighted_layers]
    decided = sum(int(np.sum(np.abs(2.0 * share - 1.0) > 0.98)) for share in shares)
    return decided / max(sum(share.size for share in shares), 1)


def _shares(quantized: QuantizedModel) -> tuple[float, float]:
    """(Soft rounding, float activations); the same in all layers."""
    soft = next((layer.soft_share for layer in quantized.weighted_layers), 0.0)
    loose = next((each.float_share for each in quantized.activation_quantizers), 0.0)
    return float(ops.convert_to_numpy(soft)), float(ops.convert_to_numpy(loose))
