"""Training that ends further from the float model than it began is not kept.

Little is to be gained where rounding loses little, and a short training, or one on few samples, may
lose more than that on its way. The same holds of biases that are corrected after it: most trainings
have found better ones, short ones have not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.memory import passing_batch
from tfeptq.model import QuantizedModel
from tfeptq.quantized.quick_calls import quick_outputs

#: Of outputs of the float model, which are kept from one comparison to the next.
_KEPT_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Errors of the outputs on calibration samples, see `OutputErrors`, before and after a step."""

    before: float
    after: float

    @property
    def is_kept(self) -> bool:
        return self.after <= self.before

    @property
    def left(self) -> float:
        """The error of what is kept."""
        return self.after if self.is_kept else self.before

    def sentence(self) -> str:
        """What to tell the user of a training that is not kept."""
        return (
            "training ended further from the float model's outputs "
            f"({self.after:.2%} of their deviation) than it began ({self.before:.2%}): what it "
            "started from is kept; more samples or steps help where there is something to gain"
        )


class OutputErrors:
    """Errors of quantized models' outputs against those of one float model, on the same samples.

    The float model computes its outputs once, unless they are large.

    Args:
        model: the canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are compared.
    """

    def __init__(self, model: keras.Model, samples: Sequence[np.ndarray], *, count: int) -> None:
        self._model, self._samples, self._count = model, samples, count
        self._kept: list[list[np.ndarray]] | None = None

    def of(self, quantized: keras.Model) -> float:
        """Root of the mean squared error over the variance, in the mean over all outputs."""
        graph = LayerGraph.of(quantized)
        compute = quick_outputs(graph)
        sums = np.zeros((4, len(graph.outputs)))
        for batch, expected in zip(self._batches(), self._expected(), strict=True):
            for index, (found, wanted) in enumerate(zip(compute(batch), expected, strict=True)):
                found, wanted = (np.asarray(each, np.float64) for each in (found, wanted))
                sums[:, index] += (
                    np.sum(np.square(found - wanted)),
                    np.sum(np.square(wanted)),
                    np.sum(wanted),
                    wanted.size,
                )
        error, square, total, values = sums
        variance = np.maximum(square - np.square(total) / values, 1e-12 * square)
        return float(np.sqrt(np.mean(error / np.where(variance > 0.0, variance, 1.0))))

    def _batches(self) -> Iterator[list[tf.Tensor]]:
        count = min(len(self._samples[0]), self._count)
        size = passing_batch(self._model, count)
        for begin in range(0, count, size):
            end = min(begin + size, count)
            yield [tf.constant(array[begin:end]) for array in self._samples]

    def _expected(self) -> Iterable[list[np.ndarray]]:
        """Outputs of the float model, batch by batch."""
        if self._kept is not None:
            return self._kept
        compute = quick_outputs(LayerGraph.of(self._model))
        computed = ([np.asarray(each) for each in compute(batch)] for batch in self._batches())
        size = 4 * self._count * sum(math.prod(each.shape[1:]) for each in self._model.outputs)
        if size > _KEPT_BYTES:
            return computed
        self._kept = list(computed)
        return self._kept


def kept_if_nearer(
    step: Callable[[], float | None], quantized: QuantizedModel, errors: OutputErrors
) -> Comparison:
    """Runs a step that changes `quantized`, and takes it back where that was nearer before.

    Args:
        step: gives the error that it leaves by `errors`, where it knows it.
        errors: by which both are compared.
    """
    start = quantized.get_weights()
    before = errors.of(quantized)
    known = step()
    found = Comparison(before, errors.of(quantized) if known is None else known)
    if not found.is_kept:
        quantized.set_weights(start)
    return found
