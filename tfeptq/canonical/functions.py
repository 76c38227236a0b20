"""Functions of one number that Keras has no activation for, by the name of their row."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

#: A variance of the integer zero has the kernel's largest root; its inverse, and that cubed in
#: gradients, stay in float32.
_LEAST = 1e-24


@keras.saving.register_keras_serializable(package="tfeptq")
def rsqrt(x: Any) -> Any:
    """1 / sqrt(x), of zero a number that every range ends before."""
    return ops.rsqrt(ops.maximum(x, _LEAST))


@keras.saving.register_keras_serializable(package="tfeptq")
def gelu_tanh(x: Any) -> Any:
    """GELU by its approximation with tanh."""
    return ops.gelu(x, approximate=True)
