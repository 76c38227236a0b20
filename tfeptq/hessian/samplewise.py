"""Tensors of a batch, sample by sample."""

from __future__ import annotations

import tensorflow as tf


def flattened(values: tf.Tensor) -> tf.Tensor:
    """(N, elements of a sample)."""
    return tf.reshape(values, [tf.shape(values)[0], -1])


def summed(values: tf.Tensor) -> tf.Tensor:
    """Sum over the elements of a sample, (N,)."""
    return tf.reduce_sum(flattened(values), axis=1)
