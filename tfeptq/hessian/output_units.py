"""The unit in which every output, and every part of one, is compared with the float model's.

A detector gives boxes in pixels beside scores below 1. Squared errors of both, simply added up,
are those of the boxes: scores would be neither trained nor measured. Each part is therefore taken
in units of its own deviation over the samples. Parts are the outputs, and what an output joins
along its last axis. A model of one part has no units: its classes keep the sizes that they have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.logits import feature_parts, logit_keys
from tfeptq.data.memory import WholeBatches, passing_batch

#: Samples that deviations are measured on.
SAMPLES = 128
#: A part that varies less than this share of the largest value has no deviation of its own.
_LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class OutputUnits:
    """Deviations of the logits.

    Attributes:
        deviations: one float32 array (features,) a logit tensor, in the order of `logit_keys`,
            equal within a part: the root of the mean variance of its features.
    """

    deviations: tuple[np.ndarray, ...]

    @property
    def relative(self) -> tuple[np.ndarray, ...]:
        """The same, the largest being 1."""
        largest = max(float(each.max()) for each in self.deviations)
        return tuple(each / np.float32(largest) for each in self.deviations)

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """What squared errors are multiplied by, the smallest being 1: (1, features) each."""
        return tuple(np.square(1.0 / each)[None] for each in self.relative)

    def scaled(self, logits: Sequence[Any]) -> list[Any]:
        """Logits in units of which the largest is 1."""
        return [values / unit for values, unit in zip(logits, self.relative, strict=True)]


def output_units(
    model: keras.Model, samples: Sequence[np.ndarray], *, count: int = SAMPLES
) -> OutputUnits | None:
    """Measures the units of a model's parts; None where it has one part only.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
    """
    graph, keys = LayerGraph.of(model), logit_keys(model)
    shapes = graph.shapes(model)
    parts = [
        # What one softmax reads is one part, whatever it was joined from.
        feature_parts(graph, shapes, key) if key == output else (shapes[key][-1],)
        for key, output in zip(keys, graph.outputs, strict=True)
    ]
    if sum(map(len, parts)) == 1:
        return None
    count = min(count, len(samples[0]))
    batches = WholeBatches(samples, count, passing_batch(model, count))
    sums = [np.zeros((3, shapes[key][-1])) for key in keys]
    for batch, repeated in zip(batches, batches.repeats, strict=True):
        # Not compiled: that would take longer than these few samples.
        for index, tensor in enumerate(graph.compute(batch, keys)):
            sums[index] += _moments(tensor[repeated:]).numpy()
    return OutputUnits(tuple(map(_deviations, sums, parts)))


def _moments(values: tf.Tensor) -> tf.Tensor:
    """Number, sum and sum of squares of each feature, float64 (3, features)."""
    rows = tf.cast(tf.reshape(values, [-1, values.shape[-1]]), tf.float64)
    number = tf.ones_like(rows[0]) * tf.cast(tf.shape(rows)[0], tf.float64)
    return tf.stack([number, tf.reduce_sum(rows, axis=0), tf.reduce_sum(rows * rows, axis=0)])


def _deviations(moments: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    number, total, squares = moments
    means = squares / number
    variances = np.maximum(means - np.square(total / number), 0.0)
    ends = np.cumsum(parts)
    result = np.empty(len(means), np.float32)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        variance, square = variances[begin:end].mean(), means[begin:end].mean()
        # What never varies is compared in units of its size; what is always zero in any.
        is_constant = variance <= _LEAST**2 * square
        result[begin:end] = np.sqrt(square if is_constant else variance) or 1.0
    return result
