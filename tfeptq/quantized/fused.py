"""Elementwise parts of a training step as single kernels.

On a CPU, XLA is no help to models with depthwise convolutions, so their steps run operator by
operator. Fake quantization and the loss would then go through memory a dozen times for every
tensor, which takes longer than the convolutions. Each is compiled on its own here, with gradients
that keep nothing but the inputs. Steps that are compiled whole take the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


@tf.custom_gradient
def gradual_fake_quantize(
    values: tf.Tensor,
    scale: tf.Tensor,
    zero_point: tf.Tensor,
    float_share: tf.Tensor,
    codes: tf.Tensor,
) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    """p * x + (1 - p) * Q(x), with the gradients of `tfeptq.quantized.quantizers.fake_quantize`.

    Args:
        values: float32, any shape.
        scale, zero_point, float_share: scalars; `float_share` is p.
        codes: lowest and highest integer, float32 (2,).
    """
    bounds = codes - zero_point

    def gradient(upstream: tf.Tensor) -> Any:
        by_values, by_scale = _backward(values, scale, float_share, bounds, upstream)
        return by_values, by_scale, None, None, None

    return _forward(values, scale, float_share, bounds), gradient


def without_gradients(
    values: tf.Tensor,
    scale: tf.Tensor,
    zero_point: tf.Tensor,
    float_share: tf.Tensor,
    codes: tf.Tensor,
) -> tf.Tensor:
    """`gradual_fake_quantize` outside of compiled functions, traced once for all shapes."""
    flat = _flat_forward(tf.reshape(values, [-1]), scale, float_share, codes - zero_point)
    return tf.reshape(flat, values.shape)


@tf.function(jit_compile=True)
def _forward(
    values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
) -> tf.Tensor:
    return _quantized(values, scale, float_share, bounds)


@tf.function(
    jit_compile=True,
    input_signature=[tf.TensorSpec(shape, tf.float32) for shape in ([None], [], [], [2])],
)
def _flat_forward(
    values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
) -> tf.Tensor:
    return _quantized(values, scale, float_share, bounds)


def _quantized(
    values: tf.Tensor, scale: tf.Tensor, float_share: tf.Tensor, bounds: tf.Tensor
) -> tf.Tensor:
    rounded = tf.clip_by_value(tf.round(values / scale), bounds[0], bounds[1])
    quantized = rounded * scale
    return quantized + float_share * (values - quantized)


@tf.function(jit_compile=True)
def _backward(
    values: tf.Tensor,
    scale: tf.Tensor,
    float_share: tf.Tensor,
    bounds: tf.Tensor,
    upstream: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    scaled = values / scale
    rounded = tf.round(scaled)
    is_inside = tf.cast((rounded >= bounds[0]) & (rounded <= bounds[1]), tf.float32)
    by_quantized = upstream * (1.0 - float_share)
    clipped = tf.clip_by_value(rounded, bounds[0], bounds[1])
    by_scale = tf.reduce_sum(by_quantized * (clipped - is_inside * scaled))
    return by_quantized * is_inside + float_share * upstream, by_scale


@tf.custom_gradient
def weighted_square(
    values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    """Sum of weights * (values - targets)^2, with its gradient by `values`.

    Args:
        values, targets: float32 (N, ..., C).
        weights: float32 (N, ..., C), with axes of size 1 where they repeat.
    """

    def gradient(upstream: tf.Tensor) -> Any:
        return _slope(values, targets, weights * upstream), None, None

    return _weighted_sum(values, targets, weights), gradient


@tf.function(jit_compile=True)
def _weighted_sum(values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(weights * tf.square(values - targets))


@tf.function(jit_compile=True)
def _slope(values: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return 2.0 * weights * (values - targets)
