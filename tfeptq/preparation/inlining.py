"""Layers that give something else than tensors, read as a part of the `call` that calls them.

Keras has no place in a graph for a layer that returns None beside its tensors, as attention without
its scores does, though it runs one inside of another layer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

#: Of Keras' refusal; it has no class of its own.
_REFUSAL = "All operation outputs must be tensors"
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
            except ValueError as error:
                if _REFUSAL not in str(error):
                    raise
                return read(layer, *arguments, **keywords)

        keras.Layer.__call__ = call
        try:
            yield
        finally:
            keras.Layer.__call__ = own
