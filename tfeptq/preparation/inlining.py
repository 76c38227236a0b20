"""Layers that Keras cannot put into a graph though it runs them, read as their `call`.

They give None beside their tensors, as attention without its scores does, or their `call` takes
what the class that they are derived from does not know. Inside of another layer both work.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

#: Of Keras' refusals; they have no class of their own.
_REFUSALS = (
    "All operation outputs must be tensors",
    "compute_output_spec() got an unexpected keyword argument",
)
_LOCK = threading.RLock()


@contextlib.contextmanager
def inlined(read: Callable[..., Any]) -> Iterator[None]:
    """Within it, such layers are read instead of called.

    Args:
        read: of a layer and the arguments of its call, what its `call` gives.
    """
    with _LOCK:
        own = keras.Layer.__call__

        def call(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
            try:
                return own(layer, *arguments, **keywords)
            except (TypeError, ValueError) as error:
                if not any(refusal in str(error) for refusal in _REFUSALS):
                    raise
                return read(layer, *arguments, **keywords)

        keras.Layer.__call__ = call
        try:
            yield
        finally:
            keras.Layer.__call__ = own
