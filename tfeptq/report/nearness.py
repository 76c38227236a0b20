"""Signal-to-noise ratio and cosine between what a float model and a quantized one compute."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

#: dB above which nobody tells two tensors apart.
INAUDIBLE = 60.0
#: Values of a tensor that are looked at where it has more.
ENOUGH_VALUES = 2**20


def decibels(signal: float, noise: float) -> float:
    """Of the variance of a signal and the mean square of an error; infinite without error."""
    if noise == 0.0 or signal <= 1e-12:
        # Nothing differs, or nothing varies that could be lost.
        return float("inf")
    return float(10.0 * np.log10(max(signal, 1e-300) / noise))


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    """In dB, by float64."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    return decibels(float(left.var()), float(np.square(left - right).mean()))


def tensor_sqnr(expected: tf.Tensor, found: tf.Tensor) -> float:
    """In dB, by float32, where TensorFlow uses all cores; large tensors are most of the work."""
    if expected.shape != found.shape:
        return float("inf")
    largest = float(tf.reduce_max(tf.abs(expected)))
    if not largest > 0.0:
        return float("inf")
    # In units in which no square leaves float32.
    unit = tf.constant(1.0 / largest, expected.dtype)
    signal = tf.math.reduce_variance(expected * unit)
    noise = tf.reduce_mean(tf.square((expected - found) * unit))
    return decibels(*(float(value) * largest**2 for value in (signal, noise)))


def tensor_nearness(expected: tf.Tensor, found: tf.Tensor) -> tuple[float, float]:
    """`tensor_sqnr` and `tensor_cosine`, in half as many passes through memory.

    Of large tensors by some values, evenly spread: `ENOUGH_VALUES` tell the ratio to 0.02 dB.
    """
    if expected.shape != found.shape:
        return float("inf"), 1.0
    stride = _stride(int(expected.shape.num_elements()))
    flat = [tf.reshape(tensor, [-1])[::stride] for tensor in (expected, found)]
    sizes = [float(tf.maximum(tf.reduce_max(each), -tf.reduce_min(each))) for each in flat]
    if not all(size > 0.0 for size in sizes):
        return tensor_sqnr(*flat), tensor_cosine(*flat)
    units = [tf.constant(1.0 / size, expected.dtype) for size in sizes]
    left, right = (each * unit for each, unit in zip(flat, units, strict=True))
    error = (flat[0] - flat[1]) * units[0]
    # Sums of squares, by a kernel that keeps none of them.
    halves = [float(tf.nn.l2_loss(each)) for each in (left, right, left - tf.reduce_mean(left))]
    per_value = 2.0 * sizes[0] ** 2 / int(error.shape[0])
    angle = float(tf.reduce_sum(left * right)) / (2.0 * float(np.sqrt(halves[0] * halves[1])))
    return decibels(per_value * halves[2], per_value * float(tf.nn.l2_loss(error))), angle


def _stride(values: int) -> int:
    """Distance of the values that are looked at: it has no divisor in common with their number.

    Otherwise some channels would never be seen.
    """
    stride = -(-values // ENOUGH_VALUES)
    while math.gcd(stride, values) > 1:
        stride += 1
    return max(stride, 1)


def cosine(expected: np.ndarray, found: np.ndarray) -> float:
    """Of all values as one vector, by float64; 1 or 0 where one of them is zero."""
    left, right = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    norms = np.linalg.norm(left) * np.linalg.norm(right)
    return float(left @ right / norms) if norms > 0 else float(np.array_equal(left, right))


def tensor_cosine(expected: tf.Tensor, found: tf.Tensor) -> float:
    """Of all values as one vector, by float32; 1 where shapes differ."""
    if expected.shape != found.shape:
        return 1.0
    left, right = (tf.reshape(tensor, [-1]) for tensor in (expected, found))
    # Without overflow: both in units of their largest magnitude.
    units = [tf.reduce_max(tf.abs(tensor)) for tensor in (left, right)]
    if not all(float(unit) > 0.0 for unit in units):
        return float(all(float(unit) == 0.0 for unit in units))
    left, right = left / units[0], right / units[1]
    return float(tf.reduce_sum(left * right) / (tf.norm(left) * tf.norm(right)))
