"""What a translation of one operator is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import UnreadableGraphError, is_tensor

#: Operator, the values that it reads, layers made so far -> its first output, or all in a list.
Handler = Callable[[tf.Operation, list[Any], Scope], Any]


def constant(operation: tf.Operation, value: Any) -> np.ndarray:
    """A value that may not depend on the inputs.

    Raises:
        UnreadableGraphError: it does.
    """
    if is_tensor(value):
        raise UnreadableGraphError(
            f"{operation.type} ({operation.name!r}) has a computed tensor where a constant is read"
        )
    return np.asarray(value)


def integers(operation: tf.Operation, value: Any) -> list[int]:
    return [int(item) for item in np.atleast_1d(constant(operation, value))]


def require_channels_last(operation: tf.Operation) -> None:
    if operation.get_attr("data_format") not in (b"NHWC", b"NDHWC", b"NWC"):
        raise UnreadableGraphError(f"{operation.type} ({operation.name!r}) has the channels first")


def in_plane(operation: tf.Operation, attribute: str) -> tuple[int, int]:
    """Strides, dilations or sizes along height and width."""
    samples, height, width, channels = operation.get_attr(attribute)
    if (samples, channels) != (1, 1):
        raise UnreadableGraphError(
            f"{operation.type} ({operation.name!r}) has {attribute} {operation.get_attr(attribute)}"
        )
    return int(height), int(width)
