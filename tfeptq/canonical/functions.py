"""Functions of one number that Keras has no activation for, by the name of their row."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfeptq")
def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return ops.rsqrt(x)


@keras.saving.register_keras_serializable(package="tfeptq")
def gelu_tanh(x: Any) -> Any:
    """GELU by its approximation with tanh."""
    return ops.gelu(x, approximate=True)
