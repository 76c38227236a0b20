"""The weight errors that each candidate width makes, as they will ship without training.

Rounding with the configured thresholds, and the bias correction that follows it: what selection
compares is what is written without training and where the optimisation starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq import linear
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.pairs import Candidate, RoundingError
from tfeptq.hessian.probes import weighted_calls
from tfeptq.layer_graph import LayerGraph
from tfeptq.layerwise import float_moments, rounded
from tfeptq.memory import fitting_forward_batch, whole_batches
from tfeptq.precision.widths import granularity
from tfeptq.quantizers import weight_range
from tfeptq.thresholds import weight_steps

#: Samples behind the covariances of "optq".
_COUNT = 512


def rounding_errors(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    candidates: Mapping[str, tuple[int, ...]],
    scores: Mapping[str, np.ndarray],
    config: QuantizationConfig,
    *,
    rounding: str,
    count: int = 256,
) -> dict[Candidate, RoundingError]:
    """Error of every layer at every width.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        scores: layer name -> weight scores for Hmse thresholds; otherwise empty.
        rounding: "optq" (each layer alone, on float inputs) or "nearest".
    """
    means = _mean_inputs(model, samples, min(count, len(samples[0])))
    errors = {}
    for layer, covariance in _covariances(model, samples, config, rounding):
        for bits in candidates.get(layer.name, ()):
            kernel = _kernel_error(layer, scores.get(layer.name), bits, config, covariance)
            bias = _mean_shift(layer, kernel, means[layer.name])
            errors[layer.name, bits] = RoundingError(kernel, -bias * config.bias_correction)
    return {(name, bits): errors[name, bits] for name in candidates for bits in candidates[name]}


def _covariances(
    model: keras.Model, samples: Sequence[np.ndarray], config: QuantizationConfig, rounding: str
) -> Iterator[tuple[keras.Layer, np.ndarray | None]]:
    """Weighted layers, with the covariances of their inputs where rounding looks at them."""
    if rounding == "nearest":
        for call in weighted_calls(LayerGraph.of(model)):
            yield call.layer, None
        return
    moments = float_moments(model, samples, count=_COUNT, is_centered=config.bias_correction)
    for layer, found in moments:
        yield layer, found.covariance


def _kernel_error(
    layer: keras.Layer,
    scores: np.ndarray | None,
    bits: int,
    config: QuantizationConfig,
    covariance: np.ndarray | None,
) -> np.ndarray:
    kernel = np.asarray(layer.kernel)
    per_channel = granularity(layer, bits, config) == "per_channel"
    steps = weight_steps(
        linear.by_channel(layer, kernel),
        None if scores is None else linear.by_channel(layer, scores),
        bits=bits,
        method=config.threshold,
        per_channel=per_channel,
    ).reshape(linear.scale_shape(layer, kernel.shape, per_channel=per_channel))
    if covariance is None:
        return np.clip(np.round(kernel / steps), *weight_range(bits)) * steps - kernel
    integers = rounded(layer, kernel, steps, covariance, bits=bits)
    return (integers * steps - kernel).astype(np.float32)


def _mean_inputs(
    model: keras.Model, samples: Sequence[np.ndarray], count: int
) -> dict[str, list[tf.Tensor]]:
    """Layer name -> mean input of each of its calls, (1, ...)."""
    graph = LayerGraph.of(model)
    calls = [call for call in graph.calls if linear.is_weighted(call.layer)]

    @tf.function
    def run(inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        tensors = graph.execute(inputs)
        return [tf.reduce_mean(tensors[call.inputs[0]], axis=0, keepdims=True) for call in calls]

    result: dict[str, list[tf.Tensor]] = {}
    batches = whole_batches(samples, count, fitting_forward_batch(model, count))
    parts = zip(*map(run, batches), strict=True)
    for call, means in zip(calls, parts, strict=True):
        result.setdefault(call.layer.name, []).append(tf.add_n(means) / len(means))
    return result


def _mean_shift(
    layer: keras.Layer, kernel_error: np.ndarray, means: Sequence[tf.Tensor]
) -> np.ndarray:
    """Mean over samples and positions of what the error adds to each output channel.

    The layer is linear: the mean over samples of its outputs is its output on the mean input.
    """
    outputs = [linear.linear_operation(layer, mean, kernel_error) for mean in means]
    shifts = [tf.reduce_mean(out, axis=list(range(len(out.shape) - 1))) for out in outputs]
    return (tf.add_n(shifts) / len(shifts)).numpy()
