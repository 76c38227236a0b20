"""TensorFlow's functions on symbolic Keras tensors, each read on its own.

TensorFlow asks dispatchers what to do with arguments that it does not know. They are exported for
Keras, under `tf.__internal__`: a test says if they go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_READ: ContextVar[Callable[..., Any] | None] = ContextVar("read", default=None)


class _OfSymbols(tf.__internal__.dispatch.GlobalOpDispatcher):
    def handle(self, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        read = _READ.get()
        leaves = keras.tree.flatten((args, kwargs))
        if read is None or not any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
            return self.NOT_SUPPORTED
        return read(op, args, kwargs)


# There is no way to take it back: outside of `read_by` it does nothing.
_OfSymbols().register()


@contextlib.contextmanager
def read_by(read: Callable[..., Any]) -> Iterator[None]:
    """Within it, functions of TensorFlow take symbolic Keras tensors.

    Args:
        read: of a function, its arguments and its keywords: what it gives.
    """
    token = _READ.set(read)
    try:
        yield
    finally:
        _READ.reset(token)
