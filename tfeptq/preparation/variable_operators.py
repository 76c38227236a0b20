"""Lets a variable stand on the left of a symbolic tensor, as in `self.gain * x`.

`keras.Variable` answers its Python operators with the backend's functions, which take no symbolic
tensors; it never leaves the operation to the other side. While a `call` is read, it does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

#: Operators for which `keras.KerasTensor` has a reflected one.
OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_LOCK = threading.RLock()


@contextlib.contextmanager
def reflected() -> Iterator[None]:
    """Within it, operators of a variable and a symbolic tensor are the symbolic tensor's."""
    names = [f"__{operator}__" for operator in OPERATORS]
    with _LOCK:
        own = {name: vars(keras.Variable).get(name) for name in names}
        for name in names:
            setattr(keras.Variable, name, _leaving(getattr(keras.Variable, name)))
        try:
            yield
        finally:
            for name, method in own.items():
                if method is None:
                    delattr(keras.Variable, name)
                else:
                    setattr(keras.Variable, name, method)


def _leaving(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operator(variable: Any, other: Any) -> Any:
        return NotImplemented if isinstance(other, keras.KerasTensor) else method(variable, other)

    return operator
