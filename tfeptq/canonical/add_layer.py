"""The sum of tensors, as a layer of canonical and quantized models."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tfeptq")
class Add(keras.layers.Add):
    """Adds by NumPy's rules, whatever the batch.

    On TensorFlow `keras.ops.add`, and with it Keras's own layer, takes its second tensor for a
    bias where one axis alone is longer than 1, the batch included, and as long as the first
    tensor's second or last axis: one number a sample becomes one a channel in a batch of as many
    samples as there are channels. Files of one sample and batches of unknown size do not know that.
    """

    def call(self, inputs: Sequence[Any]) -> Any:
        if len({len(each.shape) for each in inputs}) > 1:
            return super().call(inputs)
        return functools.reduce(operator.add, inputs)
