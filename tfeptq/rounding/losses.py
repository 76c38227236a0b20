"""Squared errors of tensors, weighted by the attention of their samples and channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops


def weighted_square(error: Any, scores: Any, *, sums_positions: bool = False) -> Any:
    """Mean over samples of the squared error (N, ..., C), summed over channels with weights.

    Args:
        scores: (N, C), or (N, 1) for one weight a sample.
        sums_positions: sum over positions: with scores by channel that is the diagonal of the
            second-order loss. Otherwise their mean, as EPTQ has it.
    """
    squared = tf.square(error)
    axes = list(range(1, len(squared.shape) - 1))
    reduce = tf.reduce_sum if sums_positions else tf.reduce_mean
    by_channel = reduce(squared, axis=axes) if axes else squared
    return tf.reduce_mean(tf.reduce_sum(scores * by_channel, axis=-1))


def spread(scores: Any, shape: Any, *, sums_positions: bool) -> Any:
    """What `weighted_square` multiplies every squared error by: (N, 1, ..., C) or (N, 1, ..., 1).

    Args:
        shape: of the error, (N, ..., C).
    """
    positions = 1 if sums_positions else int(np.prod(shape[1:-1]))
    count = ops.cast(ops.shape(scores)[0], "float32")
    middle = [1] * (len(shape) - 2)
    return ops.reshape(scores, [-1, *middle, scores.shape[-1]]) / (count * positions)
