"""Bias correction: undo the mean shift that rounding causes in every output channel.

Nagel et al., arXiv 1906.04721, section 4.2, measured on calibration data with quantized inputs. One
forward pass corrects all layers: each layer is corrected before the next one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.layer_graph import Call, Key, LayerGraph
from tfeptq.model import QuantizedModel
from tfeptq.wrappers import QuantizedWeights


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
        samples: one array a model input, float32 (N, ...); the first `count` are used at once.

    Returns:
        layer name -> the shift that was removed, one value an output channel.
    """
    inputs = [tf.constant(array[:count]) for array in samples]
    means = _float_means(model, quantized, inputs)
    shifts = _mean_shifts(quantized, inputs, means)
    for name, shift in shifts.items():
        quantized.get_layer(name).shift_bias(-shift)
    return shifts


def _float_means(
    model: keras.Model, quantized: QuantizedModel, inputs: list[tf.Tensor]
) -> dict[Key, tf.Tensor]:
    graph = LayerGraph.of(model)
    names = {layer.name for layer in quantized.weighted_layers}

    @tf.function
    def run(inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        tensors = graph.execute(inputs)
        return [_channel_mean(tensors[key]) for key in keys]

    keys = [call.output for call in graph.calls if call.layer.name in names]
    return dict(zip(keys, run(inputs), strict=True))


def _mean_shifts(
    quantized: QuantizedModel, inputs: list[tf.Tensor], means: dict[Key, tf.Tensor]
) -> dict[str, np.ndarray]:
    graph = LayerGraph.of(quantized)

    @tf.function
    def run(inputs: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        shifts: dict[str, list[tf.Tensor]] = {}

        def correct(call: Call, _: list[Any], output: tf.Tensor) -> tf.Tensor:
            if not isinstance(call.layer, QuantizedWeights):
                return output
            shift = _channel_mean(output) - means[call.output]
            shifts.setdefault(call.layer.name, []).append(shift)
            return output - shift

        graph.execute(inputs, hook=correct)
        return {name: tf.add_n(parts) / len(parts) for name, parts in shifts.items()}

    return {name: shift.numpy() for name, shift in run(inputs).items()}


def _channel_mean(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tensor, axis=list(range(len(tensor.shape) - 1)))
