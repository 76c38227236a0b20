"""Elementwise parts of a training step as single kernels.

On a CPU a step runs operator by operator. Fake quantization and the loss would then go through
memory a dozen times for every tensor, which takes longer than the convolutions. Each is compiled on
its own here, with gradients that keep nothing but the inputs. Steps that are compiled whole, on a
GPU, take the same gradients.

They multiply by the reciprocal of a scale, as divisions take longer than all else: a value within a
float32 rounding of a tie may get the other of its two neighbours.

Sums over a tensor are made sample by sample: XLA adds up the values of one sum one after the other,
which takes as long as all else, and does several sums at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def gradual_fake_quantize(
    values: tf.Tensor,
    scale: tf.Tensor,
    zero_point: tf.Tensor,
    float_share: tf.Tensor,
    codes: tf.Tensor,
    *,
    ends: tuple[float, float] | None = None,
) -> tf.Tensor:
    """p * x + (1 - p) * Q(x), with the gradients of `tfeptq.quantized.quantizers.fake_quantize`.

    Args:
        values: float32 (N, ...).
        scale, zero_point, float_share: scalars; `float_share` is p.
        codes: lowest and highest integer, float32 (2,).
        ends: of a ReLU that comes before, x = clip(values, *ends): its result is never kept.
    """
    return _gradual(ends, values, scale, float_share, codes - zero_point)


def _gradual(
    ends: tuple[float, float] | None,
    values: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
) -> tf.Tensor:
    @tf.custom_gradient
    def quantized(
        values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def gradient(upstream: tf.Tensor) -> Any:
            by_values, by_scale = _backward(values, scale, float_share, bounds, upstream, ends)
            return by_values, tf.reduce_sum(by_scale), None, None

        return _forward(values, scale, float_share, bounds, ends), gradient

    return quantized(values, scale, float_share, bounds)


def without_gradients(
    values: tf.Tensor,
    scale: tf.Tensor,
    zero_point: tf.Tensor,
    float_share: tf.Tensor,
    codes: tf.Tensor,
) -> tf.Tensor:
    """p * x + (1 - p) * Q(x) outside of compiled functions, traced once for all shapes; exact."""
    flat = _flat_forward(tf.reshape(values, [-1]), scale, float_share, codes - zero_point)
    return tf.reshape(flat, values.shape)


@tf.function(jit_compile=True, autograph=False)
def _forward(
    values: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
    ends: tuple[float, float] | None,
) -> tf.Tensor:
    values = _behind_relu(values, ends)
    return _quantized(values, values * (1.0 / scale), scale, float_share, bounds)


def _behind_relu(values: tf.Tensor, ends: tuple[float, float] | None) -> tf.Tensor:
    return values if ends is None else tf.clip_by_value(values, *ends)


@tf.function(
    jit_compile=True,
    autograph=False,
    input_signature=[tf.TensorSpec(shape, tf.float32) for shape in ([None], [], [], [2])],
)
def _flat_forward(
    values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
) -> tf.Tensor:
    return _quantized(values, values / scale, scale, float_share, bounds)


def _quantized(
    values: tf.Tensor,
    scaled: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
) -> tf.Tensor:
    quantized = tf.clip_by_value(tf.round(scaled), bounds[0], bounds[1]) * scale
    return quantized + float_share * (values - quantized)


@tf.function(jit_compile=True, autograph=False)
def _backward(
    values: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
    upstream: tf.Tensor,
    ends: tuple[float, float] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    return _gradients(values, scale, float_share, bounds, upstream, ends)


def _gradients(
    values: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
    upstream: tf.Tensor,
    ends: tuple[float, float] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """By the values, and by the scale for every sample."""
    scaled = _behind_relu(values, ends) * (1.0 / scale)
    rounded = tf.round(scaled)
    is_inside = tf.cast((rounded >= bounds[0]) & (rounded <= bounds[1]), tf.float32)
    by_quantized = upstream * (1.0 - float_share)
    clipped = tf.clip_by_value(rounded, bounds[0], bounds[1])
    by_scale = _sums(by_quantized * (clipped - is_inside * scaled))
    by_values = by_quantized * is_inside + float_share * upstream
    if ends is not None:
        by_values *= tf.cast((values > ends[0]) & (values < ends[1]), tf.float32)
    return by_values, by_scale


def _sums(values: tf.Tensor) -> tf.Tensor:
    """One a sample, (N,)."""
    return tf.reduce_sum(values, axis=list(range(1, len(values.shape))))


@tf.custom_gradient
def compared(
    values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor, tf.Tensor], Any]]:
    """`values` as they are, and the sum of weights * (values - targets)^2, with its gradient.

    Who goes on with what is returned has the gradients of both added up in one pass.

    Args:
        values, targets: float32 (N, ..., C).
        weights: float32 (N, ..., C), with axes of size 1 where they repeat.
    """

    def gradient(upstream: tf.Tensor, of_sum: tf.Tensor) -> Any:
        return _with_slope(upstream, values, targets, weights * of_sum), None, None

    return (tf.identity(values), _loss(values, targets, weights)), gradient


def compared_and_quantized(
    values: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    scale: tf.Tensor,
    zero_point: tf.Tensor,
    float_share: tf.Tensor,
    codes: tf.Tensor,
    *,
    ends: tuple[float, float] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`gradual_fake_quantize` of `values`, and the sum of `compared`, in one kernel each way."""

    @tf.custom_gradient
    def both(
        values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[[tf.Tensor, tf.Tensor], Any]]:
        def gradient(upstream: tf.Tensor, of_sum: tf.Tensor) -> Any:
            by_values, by_scale = _backward_of_both(
                values, targets, weights * of_sum, scale, float_share, bounds, upstream, ends
            )
            return by_values, tf.reduce_sum(by_scale), None, None

        quantized = _forward(values, scale, float_share, bounds, ends)
        return (quantized, _loss(values, targets, weights)), gradient

    return both(values, scale, float_share, codes - zero_point)


@tf.function(jit_compile=True, autograph=False)
def _backward_of_both(
    values: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
    upstream: tf.Tensor,
    ends: tuple[float, float] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    by_values, by_scale = _gradients(values, scale, float_share, bounds, upstream, ends)
    return by_values + _slope(values, targets, weights), by_scale


@tf.function(jit_compile=True, autograph=False)
def _with_slope(
    upstream: tf.Tensor, values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    return upstream + _slope(values, targets, weights)


def _loss(values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum of weights * (values - targets)^2. TensorFlow's own sums are quicker than XLA's."""
    repeated = [axis for axis in range(1, len(weights.shape)) if weights.shape[axis] == 1]
    squares = tf.math.squared_difference(values, targets)
    return tf.reduce_sum(weights * tf.reduce_sum(squares, axis=repeated, keepdims=True))


def _slope(values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Of `_loss`, by the values."""
    return 2.0 * weights * (values - targets)
