"""Training that ends further from the float model than it began is not kept.

Little is to be gained where rounding loses little, and a short training, or one on few samples, may
lose more than that on its way. The same holds of biases that are corrected after it: most trainings
have found better ones, short ones have not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.memory import passing_batch
from tfeptq.model import QuantizedModel


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Errors of the outputs on calibration samples, see `output_error`, before and after a step."""

    before: float
    after: float

    @property
    def is_kept(self) -> bool:
        return self.after <= self.before

    def sentence(self) -> str:
        """What to tell the user of a training that is not kept."""
        return (
            "training ended further from the float model's outputs "
            f"({self.after:.2%} of their deviation) than it began ({self.before:.2%}): what it "
            "started from is kept; more samples or steps help where there is something to gain"
        )


def kept_if_nearer(
    step: Callable[[], object],
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int,
) -> Comparison:
    """Runs a step that changes `quantized`, and takes it back where that was nearer before.

    Args:
        model: the canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are compared.
    """
    start = quantized.get_weights()
    before = output_error(quantized, model, samples, count=count)
    step()
    found = Comparison(before, output_error(quantized, model, samples, count=count))
    if not found.is_kept:
        quantized.set_weights(start)
    return found


def output_error(
    quantized: keras.Model, model: keras.Model, samples: Sequence[np.ndarray], *, count: int
) -> float:
    """Root of the mean squared error over the variance, in the mean over all outputs."""
    count = min(len(samples[0]), count)
    size = passing_batch(model, count)
    graphs = LayerGraph.of(model), LayerGraph.of(quantized)
    sums = np.zeros((4, len(graphs[0].outputs)))
    for begin in range(0, count, size):
        batch = [array[begin : min(begin + size, count)] for array in samples]
        outputs = [graph.compute(batch, graph.outputs) for graph in graphs]
        for index, pair in enumerate(zip(*outputs, strict=True)):
            wanted, found = (np.asarray(each, np.float64) for each in pair)
            sums[:, index] += (
                np.sum(np.square(found - wanted)),
                np.sum(np.square(wanted)),
                np.sum(wanted),
                wanted.size,
            )
    error, square, total, values = sums
    variance = np.maximum(square - np.square(total) / values, 1e-12 * square)
    return float(np.sqrt(np.mean(error / np.where(variance > 0.0, variance, 1.0))))
