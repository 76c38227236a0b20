"""Activation ranges from streamed statistics of the float model.

Two passes over the samples: extremes, then histograms. No activation is kept. The range chosen
minimises the squared quantization error over clipped ranges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.layer_graph import Key, LayerGraph
from tfeptq.memory import WholeBatches, fitting_batch
from tfeptq.progress import progress
from tfeptq.quantizers import activation_range

BINS = 2048
#: Fractions of the observed extremes tried as clipping bounds.
_FRACTIONS = np.linspace(1.0, 0.2, 81)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in `BINS` equal bins over [minimum, maximum]."""

    minimum: float
    maximum: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        edges = np.linspace(self.minimum, self.maximum, self.counts.size + 1)
        return (edges[1:] + edges[:-1]) / 2


def collect_histograms(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    keys: Mapping[str, Sequence[Key]],
    *,
    batch_size: int = 32,
) -> dict[str, Histogram]:
    """Histograms of groups of tensors of a float model.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        keys: group name -> tensors whose values are pooled.
    """
    graph = LayerGraph.of(model)
    names = list(keys)
    total = len(samples[0])
    # Histograms compute the bin of every value on the way.
    batch_size = fitting_batch(model, min(batch_size, total), copies=6)

    def groups(inputs: list[tf.Tensor], repeated: tf.Tensor) -> list[tf.Tensor]:
        tensors = graph.execute(inputs)
        return [
            tf.concat([tf.reshape(tensors[key][repeated:], [-1]) for key in keys[name]], 0)
            for name in names
        ]

    @tf.function
    def extremes(inputs: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        values = groups(inputs, tf.constant(0))
        return tf.stack([tf.reduce_min(v) for v in values]), tf.stack(
            [tf.reduce_max(v) for v in values]
        )

    @tf.function
    def counts(
        inputs: list[tf.Tensor], repeated: tf.Tensor, low: tf.Tensor, high: tf.Tensor
    ) -> tf.Tensor:
        return tf.stack(
            [
                tf.histogram_fixed_width(values, [low[index], high[index]], BINS)
                for index, values in enumerate(groups(inputs, repeated))
            ]
        )

    batches = WholeBatches(samples, total, batch_size)
    bounds = [extremes(batch) for batch in progress(batches, "extremes")]
    low = np.min([minimum.numpy() for minimum, _ in bounds], axis=0)
    high = np.max([maximum.numpy() for _, maximum in bounds], axis=0)
    high = np.maximum(high, low + 1e-6 * np.maximum(np.abs(low), 1.0)).astype(np.float32)
    sums = np.zeros((len(names), BINS), np.int64)
    for index, batch in enumerate(progress(batches, "histograms")):
        repeated = tf.constant(batches.repeats[index])
        sums += counts(batch, repeated, tf.constant(low), tf.constant(high)).numpy()
    return {
        name: Histogram(float(low[index]), float(high[index]), sums[index])
        for index, name in enumerate(names)
    }


def best_range(histogram: Histogram, *, bits: int) -> tuple[float, float]:
    """Clipped range (minimum <= 0 <= maximum) with the least squared quantization error.

    Coordinate search: the two bounds are shrunk in turn. 16 bits keep the full range: clipping
    gains nothing there and costs outliers.
    """
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if bits == 16:
        return low, high
    used = histogram.counts > 0
    values, counts = histogram.centers[used], histogram.counts[used].astype(np.float64)
    best = (low, high)
    for _ in range(2 if low < 0.0 < high else 1):
        if high > 0.0:
            best = _least_error(values, counts, [(best[0], high * f) for f in _FRACTIONS], bits)
        if low < 0.0:
            best = _least_error(values, counts, [(low * f, best[1]) for f in _FRACTIONS], bits)
    return best


def _least_error(
    values: np.ndarray, counts: np.ndarray, candidates: list[tuple[float, float]], bits: int
) -> tuple[float, float]:
    ranges = np.asarray(candidates)
    errors = range_errors(values, counts, ranges[:, 0], ranges[:, 1], bits=bits)
    return candidates[int(np.argmin(errors))]


def range_errors(
    values: np.ndarray, counts: np.ndarray, low: np.ndarray, high: np.ndarray, *, bits: int
) -> np.ndarray:
    """Weighted squared error of asymmetric quantization, one a candidate range, float64."""
    first, last = activation_range(bits)
    scale = np.maximum((high - low) / (last - first), 1e-12)[:, None]
    zero_point = np.round(first - low[:, None] / scale)
    codes = np.clip(np.round(values / scale) + zero_point, first, last)
    return np.square((codes - zero_point) * scale - values) @ counts
