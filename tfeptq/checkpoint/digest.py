"""What a result depends on, as one short key.

Keys are derived from whole values: every field of a configuration, every weight, every layer with
its settings and its place in the graph, and the code that computes. Whoever adds a field has it in
the key; a value that cannot be told apart from others is an error, never left out.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy
import tensorflow as tf

#: Values that their text tells from others.
_PLAIN = (bool, int, float, complex, str, bytes, Path, np.dtype, types.EllipsisType)
#: Where libraries live: they are told by name, and change with their version.
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


class UndigestibleError(TypeError):
    """A value that nothing here can tell from every other value."""


def digest(value: Any) -> str:
    """32 hexadecimal digits of a value and of the code that computes with it.

    Args:
        value: numbers, strings, None, arrays, Keras models, variables and layers, mappings and
            sequences of these, dataclasses (their fields, or their `digest_parts`), functions
            (their code with the values that it refers to; those of libraries by name) and classes
            (by name).

    Raises:
        UndigestibleError: anything else.
    """
    state = hashlib.sha256(code_version().encode())
    _Writer(state.update).add(value)
    return state.hexdigest()[:32]


@functools.cache
def code_version() -> str:
    """Of the programs that results depend on: sources of both packages, and the libraries."""
    state = hashlib.sha256()
    for name in ("tfeptq", "tflite_export"):
        home = Path(str(importlib.import_module(name).__file__)).parent
        for path in sorted(home.rglob("*.py")):
            state.update(str(path.relative_to(home)).encode() + path.read_bytes())
    versions = [importlib.import_module("tfeptq").__version__]
    versions += [module.__version__ for module in (keras, tf, np, scipy)]
    versions.append(importlib.metadata.version("ai-edge-litert"))
    return f"{state.hexdigest()} {versions}"


class _Writer:
    """Spells values out, each with its kind and its length, so that no two read the same."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._write = write
        # A function may refer to itself.
        self._functions: list[types.FunctionType] = []

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, _PLAIN):
            self._token(type(value).__name__, repr(value))
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(np.asarray(value))
        elif isinstance(value, (tf.Tensor, tf.Variable, keras.Variable)):
            self._array(np.asarray(keras.ops.convert_to_numpy(value)))
        elif isinstance(value, Mapping):
            self._sequence("mapping", [part for item in value.items() for part in item])
        elif isinstance(value, (list, tuple)):
            self._sequence("sequence", value)
        elif isinstance(value, (set, frozenset)):
            self._sequence("set", sorted(digest(item) for item in value))
        elif isinstance(value, keras.Model):
            self._sequence("model", [type(value), _architecture(value), value.get_weights()])
        elif isinstance(value, keras.Layer):
            self._sequence("layer", [type(value), value.get_config(), value.get_weights()])
        elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            module = getattr(value, "__module__", "")
            self._token("name", f"{module}.{getattr(value, '__qualname__', value.__name__)}")
        else:
            self._rest(value)

    def _rest(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._sequence("method", [value.__func__, value.__self__])
        elif isinstance(value, functools.partial):
            self._sequence("partial", [value.func, value.args, value.keywords])
        elif dataclasses.is_dataclass(value):
            self._sequence("dataclass", [type(value), *_fields(value)])
        else:
            raise UndigestibleError(f"a {type(value).__name__} cannot be told from others")

    def _token(self, kind: str, text: str) -> None:
        data = text.encode()
        self._write(f"{kind} {len(data)} ".encode() + data)

    def _sequence(self, kind: str, values: Any) -> None:
        values = list(values)
        self._token(kind, str(len(values)))
        for value in values:
            self.add(value)

    def _array(self, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            raise UndigestibleError(f"an array of {array.dtype} cannot be told from others")
        self._token("array", f"{array.dtype.str} {array.shape}")
        self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        if code.co_filename.startswith(_LIBRARIES):
            self._token("name", f"{function.__module__}.{function.__qualname__}")
            return
        known = [index for index, other in enumerate(self._functions) if other is function]
        if known:
            self._token("recursion", str(known[0]))
            return
        self._functions.append(function)
        names = sorted(set(_global_names(code)) & set(function.__globals__))
        used = {name: function.__globals__[name] for name in names}
        self._sequence("function", [function.__qualname__, *_code(code)])
        self._sequence("values", [function.__defaults__, function.__kwdefaults__, used])
        self._sequence("closure", [_content(cell) for cell in function.__closure__ or ()])


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError as error:
        raise UndigestibleError("a function refers to a name without a value") from error


def _architecture(model: keras.Model) -> dict[str, Any]:
    """Layers with their settings and how they are called; Keras numbers names of models through."""
    try:
        config = model.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UndigestibleError(f"Keras cannot describe the model {model.name!r}") from error
    return {name: value for name, value in config.items() if name != "name"}


def _fields(value: Any) -> list[Any]:
    if hasattr(value, "digest_parts"):
        return list(value.digest_parts)
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def _code(code: types.CodeType) -> list[Any]:
    """What a function does, without the lines where it stands."""
    constants = [
        _code(constant) if isinstance(constant, types.CodeType) else constant
        for constant in code.co_consts
    ]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
