"""Bias correction: undo the mean shift that rounding causes in every output channel.

Nagel et al., arXiv 1906.04721, section 4.2, measured on calibration data with quantized inputs. One
forward pass corrects all layers: each is corrected before the next one runs, a shared layer by the
mean over its calls. `tfeptq.canonical.turns` tells the order where calls of a layer depend on each
other; what is not corrected yet then stands in as if each of its calls were corrected alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.turns import Turn, turns
from tfeptq.canonical.walk import Walk
from tfeptq.data.memory import WholeBatches, is_worth_tracing, passing_batch
from tfeptq.model import QuantizedModel
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.quick_calls import quick_call
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.stage_samples import first


def correct_biases(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int | None = None,
) -> dict[str, np.ndarray]:
    """Shifts the biases of `quantized` so that mean pre-activations equal those of `model`.

    Args:
        model: the canonical float model with the same layer names.
        samples: one array a model input, float32 (N, ...); the first `count` are used, None: all,
            at once where they fit into memory. Otherwise shifts are averaged over batches.

    Returns:
        layer name -> the shift that was removed, one value an output channel.
    """
    count = first(count, len(samples[0]))
    quantized.report.samples["bias correction"] = count
    graph, float_graph = LayerGraph.of(quantized), LayerGraph.of(model)
    counterparts = corresponding_tensors(float_graph, graph)
    order = turns(graph, QuantizedWeights)

    def run(inputs: list[tf.Tensor], repeated: Any) -> dict[str, tf.Tensor]:
        means = _float_means(float_graph, counterparts, inputs, repeated)
        return _mean_shifts(graph, order, means, inputs, repeated)

    if is_worth_tracing(model, count):
        run = tf.function(run, autograph=False)
    batches = WholeBatches(samples, count, passing_batch(model, count))
    found = [run(*each) for each in zip(batches, map(tf.constant, batches.repeats), strict=True)]
    new = [batches.size - repeated for repeated in batches.repeats]
    shifts = {
        name: np.average([part[name] for part in found], axis=0, weights=new).astype(np.float32)
        for name in found[0]
    }
    for name, shift in shifts.items():
        quantized.get_layer(name).shift_bias(-shift)
    return shifts


def _float_means(
    graph: LayerGraph, counterparts: dict[Key, Key], inputs: list[tf.Tensor], repeated: Any
) -> dict[Key, tf.Tensor]:
    """Mean pre-activations of the float model, by the tensors of the quantized one."""
    walk = Walk(graph, [inputs])
    return {
        counterparts[call.output]: _channel_mean(walk[call.output][0][repeated:])
        for call in graph.calls
        if linear.is_weighted(call.layer)
    }


def _mean_shifts(
    graph: LayerGraph,
    order: Sequence[Turn],
    means: dict[Key, tf.Tensor],
    inputs: list[tf.Tensor],
    repeated: Any,
) -> dict[str, tf.Tensor]:
    """Layer name -> the shift of a batch, with the layers before corrected for the same batch."""
    shifts: dict[str, tf.Tensor] = {}
    uncorrected: dict[Key, tf.Tensor] = {}

    def alone(call: Call, output: tf.Tensor) -> tf.Tensor:
        return _channel_mean(output[repeated:]) - means[call.output]

    def corrected(call: Call, arguments: list[Any]) -> tf.Tensor:
        if not isinstance(call.layer, QuantizedWeights):
            return quick_call(call)(arguments)
        kept = uncorrected.pop(call.output, None)
        output = quick_call(call)(arguments) if kept is None else kept
        name = call.layer.name
        return output - (shifts[name] if name in shifts else alone(call, output))

    walk = Walk(graph, [inputs], lambda call: functools.partial(corrected, call))
    for turn in order:
        source = walk.fork() if turn.unsettled else walk
        outputs = [quick_call(call)([source[key][0] for key in call.inputs]) for call in turn.calls]
        parts = [alone(*pair) for pair in zip(turn.calls, outputs, strict=True)]
        shifts[turn.layer.name] = tf.add_n(parts) / len(parts)
        if not turn.unsettled:
            keys = (call.output for call in turn.calls)
            uncorrected.update(zip(keys, outputs, strict=True))
    return shifts


def _channel_mean(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tensor, axis=list(range(len(tensor.shape) - 1)))
