"""What each step of the distillation is fed, in an order that a stopped run can go on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfeptq.rounding.kept_tensors import KeptTensors


def sample_order(count: int, batch_size: int, steps: int, *, seed: int) -> np.ndarray:
    """Which samples each step takes, int32 (steps, batch): one shuffled pass after the other.

    It depends on nothing but its arguments: a run that was stopped goes on with the same batches.
    """
    batch_size = min(batch_size, count)
    passes = -(-steps * batch_size // count)
    order = [np.random.default_rng([seed, index]).permutation(count) for index in range(passes)]
    taken = np.concatenate(order)[: steps * batch_size]
    return taken.reshape(steps, batch_size).astype(np.int32)


def batches(
    samples: Sequence[np.ndarray],
    attention: Sequence[np.ndarray],
    remembered: KeptTensors | None,
    order: np.ndarray,
) -> tf.data.Dataset:
    """Batches of all three in the given order; indices travel, not what they stand for.

    Args:
        remembered: of all samples; None: no tensors.
    """
    columns = tf.nest.map_structure(tf.convert_to_tensor, (tuple(samples), tuple(attention)))

    @tf.autograph.experimental.do_not_convert
    def rows(indices: tf.Tensor) -> Any:
        kept = () if remembered is None else tuple(remembered.rows(indices))
        return *tf.nest.map_structure(lambda column: tf.gather(column, indices), columns), kept

    indices = tf.data.Dataset.from_tensor_slices(order.reshape(-1))
    fed = indices.batch(order.shape[1], drop_remainder=True).map(rows).prefetch(1)
    return fed.with_options(_untuned())


def _untuned() -> tf.data.Options:
    """Nothing of the pipeline is left to be tuned.

    TensorFlow's tuner runs beside the steps all the same, and its end is waited for: after 2000
    steps of ResNet8, which take 100 seconds, that took 38 more.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
