"""Activation ranges from streamed statistics of the float model.

One pass over the samples; no activation is kept. The range chosen is the widest whose squared
quantization error is the least as far as the samples tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.calibrate.histograms import Histogram, RunningHistograms, counted_together, seen
from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.primitives import find_primitive
from tfeptq.canonical.topology import Topology, least_result
from tfeptq.canonical.walk import Walk
from tfeptq.data.memory import (
    WholeBatches,
    fitting_batch,
    is_worth_tracing,
    passing_batch,
)
from tfeptq.data.shares import mapped, shares
from tfeptq.progress import progress
from tflite_export.graph import limits

#: Fractions of the observed extremes tried as clipping bounds.
_FRACTIONS = np.linspace(1.0, 0.2, 81)
#: Share of the least squared error that a wider range may cost.
_SPENT = 0.01
#: Values of a tensor that are counted, in all samples together and in each, where it has more.
_COUNTED, _COUNTED_IN_SAMPLE = 2**21, 2**12


def calibration_histograms(
    model: keras.Model, samples: Sequence[np.ndarray]
) -> dict[Key, Histogram]:
    """Of every tensor that a quantizer's range may have to cover, whatever the widths.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); all are used.

    Raises:
        ValueError: the model computes NaN or infinity; names the layer.
    """
    graph = LayerGraph.of(model)
    copies = {call.output: call for call in graph.calls if _copies(call.layer)}
    written = Topology(graph).written()
    found = tensor_histograms(model, samples, [key for key in written if key not in copies])
    for key, call in copies.items():
        found[key] = Histogram.pooled([found[source] for source in call.inputs])
    return found


def _copies(layer: keras.Layer) -> bool:
    """Whether a layer's result holds the values of its inputs, once each."""
    row = find_primitive(layer)
    return row is not None and row.copies


def tensor_histograms(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    keys: Iterable[Key],
    *,
    batch_size: int = 128,
) -> dict[Key, Histogram]:
    """Histograms of tensors of a float model.

    Of large tensors some values of every sample are counted, evenly spread; extremes are exact.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); all are used.

    Raises:
        ValueError: the model computes NaN or infinity; names the layer.
    """
    graph, total = LayerGraph.of(model), len(samples[0])
    keys = _in_order(graph, keys)
    # Bins of all values are computed on the way. A compiled pass may have all tensors at once.
    is_compiled = is_worth_tracing(model, total)
    fitting, copies = (fitting_batch, 2) if is_compiled else (passing_batch, 6)
    batch_size = fitting(model, min(batch_size, total), copies=copies)
    inputs = {
        "model": model,
        "samples": samples,
        "keys": keys,
        "batch_size": batch_size,
        "is_compiled": is_compiled,
    }
    batches = len(WholeBatches(samples, total, batch_size))
    parts = list(mapped(_histograms_of_batches, inputs, shares(batches), "ranges"))
    # Histograms of unequal ranges are pooled without a difference in any count.
    return {
        key: of_shares[0] if len(of_shares) == 1 else Histogram.pooled(of_shares)
        for key, of_shares in zip(keys, zip(*parts, strict=True), strict=True)
    }


def _histograms_of_batches(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    keys: Sequence[Key],
    batch_size: int,
    is_compiled: bool,
) -> Callable[[Sequence[int]], list[Histogram]]:
    """Computes the histograms of tensors over the batches of some numbers."""
    graph, total = LayerGraph.of(model), len(samples[0])
    shapes = graph.shapes(model)
    sizes = [int(np.prod(shapes[key][1:])) for key in keys]
    strides = [_stride(size, total) for size in sizes]
    layers = {call.output: call.layer for call in graph.calls}
    least = [least_result(layers[key]) if key in layers else -np.inf for key in keys]

    def run(inputs: list[tf.Tensor], repeated: Any, low: Any, high: Any) -> tuple[tf.Tensor, ...]:
        walk = Walk(graph, [inputs])
        rows = zip(keys, sizes, strides, least, strict=True)
        tensors = [
            seen(tf.reshape(walk[key][0][repeated:], [-1, size]), stride, bound)
            for key, size, stride, bound in rows
        ]
        return counted_together(tensors, low, high)

    run = tf.function(run, autograph=False) if is_compiled else run
    batches = WholeBatches(samples, total, batch_size)

    def of_batches(numbers: Sequence[int]) -> list[Histogram]:
        histograms = RunningHistograms(len(keys))

        def of_batch(index: int) -> list[np.ndarray]:
            batch, repeated = batches[index], tf.constant(batches.repeats[index])
            try:
                columns = run(batch, repeated, histograms.low, histograms.high)
            except tf.errors.InvalidArgumentError as error:
                # NaN and infinity are in no bin.
                raise _unbounded(graph, batch) or error from error
            found = [column.numpy() for column in columns]
            if not np.all(np.isfinite(found[:2])):
                raise _unbounded(graph, batch) or AssertionError("finite tensors of infinite range")
            return found

        for index in progress(numbers, "ranges"):
            histograms.add(*of_batch(index))
        # A value that is counted stands for those that are not: pooled tensors weigh what they
        # hold.
        return [
            dataclasses.replace(found, counts=found.counts * stride)
            for found, stride in zip(histograms, strides, strict=True)
        ]

    return of_batches


def _in_order(graph: LayerGraph, keys: Iterable[Key]) -> list[Key]:
    """As tensors are computed: each is looked at before it has been read by all."""
    wanted = set(keys)
    computed = (*graph.inputs, *(call.output for call in graph.calls))
    return [key for key in computed if key in wanted]


def _stride(size: int, samples: int) -> int:
    """Distance of the values that are counted, of `size` in a sample.

    It has no divisor in common with `size`, and so none with a number of channels: each counts.
    """
    wanted = max(_COUNTED // samples, _COUNTED_IN_SAMPLE)
    stride = -(-size // wanted)
    while math.gcd(stride, size) > 1:
        stride += 1
    return max(stride, 1)


def _unbounded(graph: LayerGraph, batch: Sequence[tf.Tensor]) -> ValueError | None:
    """What to say where a tensor of a batch holds NaN or infinity; None where none does."""
    for (layer, _), values in graph.execute(batch).items():
        if not np.all(np.isfinite(values)):
            return ValueError(
                f"layer {layer!r} computes NaN or infinity from calibration samples in the float "
                "model: no range holds them; look at its weights and at the samples"
            )
    return None


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
    """The widest of the candidates that is within one standard error of the best one.

    What clipping costs hangs on few values, and samples that were not seen have larger ones: a
    gain that chance would give is none. The rule of one standard error is that of Breiman et al.,
    Classification and Regression Trees, 1984, 3.4.3; the error is that of the difference. It costs
    at most `_SPENT` of the error, so that a single outlier takes the codes of no others.

    Args:
        candidates: the widest first.
    """
    ranges = np.asarray(candidates)
    errors = squared_errors(values, ranges[:, 0], ranges[:, 1], bits=bits)
    sums = errors @ counts
    least = int(np.argmin(sums))
    by_chance = np.sqrt(np.square(errors - errors[least]) @ counts)
    allowed = np.minimum(by_chance, _SPENT * sums[least])
    return candidates[int(np.argmax(sums - sums[least] <= allowed))]


def squared_errors(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, *, bits: int
) -> np.ndarray:
    """Of asymmetric quantization of every value in every range, float64 (ranges, values)."""
    first, last = activation_range(bits)
    scale = np.maximum((high - low) / (last - first), limits.LOWEST_SCALE)[:, None]
    zero_point = np.round(first - low[:, None] / scale)
    codes = np.clip(np.round(values / scale) + zero_point, first, last)
    return np.square((codes - zero_point) * scale - values)
