"""Bias correction: undo the mean shift that rounding causes in every output channel.

Nagel et al., arXiv 1906.04721, section 4.2, measured on calibration data with quantized inputs. One
forward pass corrects all layers: each layer is corrected before the next one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.memory import WholeBatches, fitting_forward_batch
from tfeptq.model import QuantizedModel
from tfeptq.wrappers import QuantizedWeights

FloatMeans = Callable[[list[tf.Tensor], tf.Tensor], dict[Key, tf.Tensor]]
MeanShifts = Callable[[list[tf.Tensor], tf.Tensor, dict[Key, tf.Tensor]], dict[str, tf.Tensor]]


def correct_biases(
    quantized: QuantizedModel,
    model: keras.Model,
    samples: Sequence[np.ndarray],
    *,
    count: int = 256,
) -> dict[str, np.ndarray]:
    """Shifts the biases of `quantized` so that mean pre-activations equal those of `model`.

    Args:
        model: the canonical float model with the same layer names.
        samples: one array a model input, float32 (N, ...); the first `count` are used, at once
            where they fit into memory. Otherwise shifts are averaged over batches.

    Returns:
        layer name -> the shift that was removed, one value an output channel.
    """
    count = min(count, len(samples[0]))
    batch_size = fitting_forward_batch(model, count)
    float_means, mean_shifts = _float_means(model, quantized), _mean_shifts(quantized)
    batches = WholeBatches(samples, count, batch_size)
    found = []
    for inputs, repeated in zip(batches, map(tf.constant, batches.repeats), strict=True):
        found.append(mean_shifts(inputs, repeated, float_means(inputs, repeated)))
    new = [batches.size - repeated for repeated in batches.repeats]
    shifts = {
        name: np.average([part[name] for part in found], axis=0, weights=new).astype(np.float32)
        for name in found[0]
    }
    for name, shift in shifts.items():
        quantized.get_layer(name).shift_bias(-shift)
    return shifts


def _float_means(model: keras.Model, quantized: QuantizedModel) -> FloatMeans:
    graph = LayerGraph.of(model)
    names = {layer.name for layer in quantized.weighted_layers}
    calls = [call for call in graph.calls if call.layer.name in names]

    @tf.function
    def run(inputs: list[tf.Tensor], repeated: tf.Tensor) -> dict[Key, tf.Tensor]:
        tensors = graph.execute(inputs)
        return {call.output: _channel_mean(tensors[call.output][repeated:]) for call in calls}

    return run


def _mean_shifts(quantized: QuantizedModel) -> MeanShifts:
    graph = LayerGraph.of(quantized)

    @tf.function
    def run(
        inputs: list[tf.Tensor], repeated: tf.Tensor, means: dict[Key, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        shifts: dict[str, list[tf.Tensor]] = {}

        def correct(call: Call, _: list[Any], output: tf.Tensor) -> tf.Tensor:
            if not isinstance(call.layer, QuantizedWeights):
                return output
            shift = _channel_mean(output[repeated:]) - means[call.output]
            shifts.setdefault(call.layer.name, []).append(shift)
            return output - shift

        graph.execute(inputs, hook=correct)
        return {name: tf.add_n(parts) / len(parts) for name, parts in shifts.items()}

    return run


def _channel_mean(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tensor, axis=list(range(len(tensor.shape) - 1)))
