"""Bias correction: undo the mean shift that rounding causes in every output channel.

Nagel et al., arXiv 1906.04721, section 4.2, measured on calibration data with quantized inputs, and
corrected as far as it is not these samples' own (`without_chance`). One forward pass corrects all
layers: each is corrected before the next one runs, a shared layer by the mean over its calls, in
which each counts by what its shift is worth: over the square of the step of its results.
`tfeptq.canonical.turns` tells the order where calls of a layer depend on each other; what is not
corrected yet then stands in as if each of its calls were corrected alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.topology import keeps_order
from tfeptq.canonical.turns import Turn, turns
from tfeptq.canonical.walk import Walk
from tfeptq.data.memory import WholeBatches, passing_batch
from tfeptq.data.shares import mapped
from tfeptq.model import QuantizedModel
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quick_calls import quick_call
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import Written
from tfeptq.stage_samples import first

#: Samples without which nothing is said of chance, and what share it may add to the squared error
#: that a layer's outputs have anyway.
_LEAST, _CHANCE = 32, 0.02
#: Standard errors beyond which a mean is no chance, whatever the others of its layer are.
_LARGE = 3.0


def correct_biases(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int | None = None,
) -> dict[str, np.ndarray]:
    """Shifts the biases of `quantized` so that mean pre-activations come to those of `model`.

    What is left of their means is at most their standard error over the samples, about.

    Args:
        model: the canonical float model with the same layer names.
        samples: one array a model input, float32 (N, ...); the first `count` are used, None: all,
            at once where they fit into memory. Otherwise each batch has its own layers corrected,
            until there are enough of them, see `is_enough`.

    Returns:
        layer name -> the shift that was removed, one value an output channel.
    """
    count = first(count, len(samples[0]))
    batch_size = passing_batch(model, count)
    batches = WholeBatches(samples, count, batch_size)
    inputs = {
        "quantized": quantized,
        "model": model,
        "samples": samples,
        "count": count,
        "batch_size": batch_size,
    }
    each = mapped(_shifts_of_batches, inputs, range(len(batches)), "bias correction")
    rows: dict[str, list[np.ndarray]] = {}
    steps, used = _output_steps(quantized), 0
    for repeated, found in zip(batches.repeats, each, strict=True):
        for name, part in found.items():
            rows.setdefault(name, []).append(part)
        used += batches.size - repeated
        if used >= _LEAST and is_enough(rows, steps):
            break
    quantized.report.samples["bias correction"] = used
    shifts = {
        name: without_chance(tf.constant(np.concatenate(parts)), used).numpy()
        for name, parts in rows.items()
    }
    layers = LayerGraph.of(quantized).layers
    for name, shift in shifts.items():
        layers[name].shift_bias(-shift)
    return shifts


def _output_steps(quantized: QuantizedModel) -> dict[str, float]:
    """Layer name -> the finest step of its outputs."""
    steps: dict[str, float] = {}
    for (name, _), step in _steps_of_calls(quantized).items():
        steps[name] = min(step, steps.get(name, step))
    return steps


def _steps_of_calls(quantized: QuantizedModel) -> dict[Key, float]:
    """What a call computes -> the step in which it is written."""
    kernels = Written.of(quantized).computing()
    return {kernel.call.output: float(kernel.target.parameters()[0]) for kernel in kernels}


def is_enough(rows: Mapping[str, Sequence[np.ndarray]], steps: Mapping[str, float]) -> bool:
    """Whether more samples would tell a layer nothing that its output shows.

    What chance gives a layer's shifts is then, in the mean square over its channels, at most
    `_CHANCE` of the squared error that no bias takes away: how far single samples are from the mean
    shift, and step^2 / 12 of rounding the outputs to their steps.

    Args:
        rows: layer name -> shifts of samples, float32 (n, C) a batch.
        steps: layer name -> the step of its outputs.
    """
    for name, parts in rows.items():
        shifts = np.concatenate(parts).astype(np.float64)
        if len(shifts) < 2:
            return False
        spread = float(shifts.var(axis=0, ddof=1).mean())
        if spread / len(shifts) > _CHANCE * (spread + steps[name] ** 2 / 12.0):
            return False
    return True


def _shifts_of_batches(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    count: int,
    batch_size: int,
) -> Callable[[int], dict[str, np.ndarray]]:
    """Computes the shifts of every sample of the batch of a number."""
    graph, float_graph = LayerGraph.of(quantized), LayerGraph.of(model)
    counterparts = corresponding_tensors(float_graph, graph)
    # Factors are exact: their means move by what is clipped on purpose, as nobody reads it.
    exact = {call.layer.name for call in float_graph.calls if keeps_order(call.layer)}
    order = [turn for turn in turns(graph, QuantizedWeights) if turn.layer.name not in exact]
    batches = WholeBatches(samples, count, batch_size)

    steps = _steps_of_calls(quantized)

    # There are too few batches for a compiled function to win back the time of its trace.
    def of_batch(index: int) -> dict[str, np.ndarray]:
        inputs, repeated = batches[index], batches.repeats[index]
        means = _float_means(float_graph, counterparts, inputs, repeated)
        shifts = _sample_shifts(graph, order, means, steps, inputs, repeated, count)
        return {name: shift.numpy() for name, shift in shifts.items()}

    return of_batch


def _float_means(
    graph: LayerGraph, counterparts: dict[Key, Key], inputs: list[tf.Tensor], repeated: int
) -> dict[Key, tf.Tensor]:
    """Mean pre-activations of the float model, by the tensors of the quantized one."""
    walk = Walk(graph, [inputs])
    return {
        counterparts[call.output]: _sample_means(walk[call.output][0], repeated)
        for call in graph.calls
        if linear.is_weighted(call.layer)
    }


def _sample_shifts(
    graph: LayerGraph,
    order: Sequence[Turn],
    means: dict[Key, tf.Tensor],
    steps: dict[Key, float],
    inputs: list[tf.Tensor],
    repeated: int,
    count: int,
) -> dict[str, tf.Tensor]:
    """Layer name -> shifts of a batch, (N, C), with the layers before corrected by its means.

    Args:
        steps: what a call computes -> the step in which it is written.
    """
    shifts: dict[str, tf.Tensor] = {}
    corrections: dict[str, tf.Tensor] = {}
    uncorrected: dict[Key, tf.Tensor] = {}
    names = {turn.layer.name for turn in order}

    def alone(call: Call, output: tf.Tensor) -> tf.Tensor:
        return _sample_means(output, repeated) - means[call.output]

    def corrected(call: Call, arguments: list[Any]) -> tf.Tensor:
        if call.layer.name not in names:
            return quick_call(call)(arguments)
        kept = uncorrected.pop(call.output, None)
        output = quick_call(call)(arguments) if kept is None else kept
        known = corrections.get(call.layer.name)
        return output - (without_chance(alone(call, output), count) if known is None else known)

    walk = Walk(graph, [inputs], lambda call: functools.partial(corrected, call))
    for turn in order:
        source = walk.fork() if turn.unsettled else walk
        outputs = [quick_call(call)([source[key][0] for key in call.inputs]) for call in turn.calls]
        parts = [alone(*pair) for pair in zip(turn.calls, outputs, strict=True)]
        worth = np.array([1.0 / steps[call.output] ** 2 for call in turn.calls])
        shares = worth / worth.sum()
        weighted = [part * share for part, share in zip(parts, shares, strict=True)]
        shifts[turn.layer.name] = tf.add_n(weighted)
        corrections[turn.layer.name] = without_chance(shifts[turn.layer.name], count)
        if not turn.unsettled:
            keys = (call.output for call in turn.calls)
            uncorrected.update(zip(keys, outputs, strict=True))
    return shifts


# Traced once, for any sizes: every layer of every batch asks.
@tf.function(
    input_signature=[tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([], tf.float32)],
    autograph=False,
)
def without_chance(shifts: tf.Tensor, count: float) -> tf.Tensor:
    """Mean shift of each channel of a layer, less what chance gives of it.

    A mean of few samples holds their noise, which others do not share: corrected in every layer it
    adds up. Means are therefore shrunk by the share that their squared standard errors have in
    their squares (James and Stein, Estimation with quadratic loss, 1961; its positive part): those
    of a layer together, where all may be noise, and alone those that are too large for it, which
    say nothing of the others. Of many samples nearly all is corrected.

    Args:
        shifts: one row a sample, float32 (N, C); a single sample is taken as it is.
        count: of all samples whose mean is wanted, of which these may be a part.

    Returns:
        float32 (C,).
    """
    mean = tf.reduce_mean(shifts, axis=0)
    size = tf.cast(tf.shape(shifts)[0], shifts.dtype)
    variance = tf.reduce_sum(tf.square(shifts - mean), axis=0) / tf.maximum(size - 1.0, 1.0)
    square, chance = tf.square(mean), variance / count
    is_large = square > _LARGE**2 * chance
    # In units of their standard errors all channels count alike.
    ratios = tf.where(is_large, 0.0, tf.math.divide_no_nan(square, chance))
    others = tf.reduce_sum(tf.cast(~is_large & (chance > 0.0), mean.dtype))
    together = tf.math.divide_no_nan(tf.reduce_sum(ratios), others)
    # An expected square of 1 is what no shift at all gives.
    share = tf.where(
        is_large, tf.math.divide_no_nan(chance, square), 1.0 / tf.maximum(together, 1.0)
    )
    return mean * (1.0 - share)


def _sample_means(tensor: tf.Tensor, repeated: int) -> tf.Tensor:
    """Over all positions of each sample behind the repeated ones, (N, C)."""
    return tf.reduce_mean(tensor, axis=list(range(1, len(tensor.shape) - 1)))[repeated:]
