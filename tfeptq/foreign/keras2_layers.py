"""What Keras 2 computes otherwise than Keras 3, or Keras 3 does not have, written for Keras 3."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("tfeptq")
def keras2_hard_sigmoid(x: Any) -> Any:
    """clip(0.2 x + 0.5, 0, 1): the slope of Keras 2, where that of Keras 3 is 1/6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@keras.saving.register_keras_serializable("tfeptq")
class ThresholdedReLU(keras.layers.Layer):
    """x where it is above `theta`, otherwise 0; of Keras 2."""

    def __init__(self, theta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.theta = float(theta)

    def call(self, inputs: Any) -> Any:
        return ops.where(inputs > self.theta, inputs, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "theta": self.theta}


@keras.saving.register_keras_serializable("tfeptq")
class TensorFlowFunction(keras.layers.Layer):
    """A call of a function or an operator of TensorFlow, which Keras 2 keeps as a layer.

    Args:
        function: its name below `tf.`, or `__operators__.NAME` of a Python operator.
        first: argument in front of the tensor, where that is a constant, as in `2.0 * x`.
        parameter: name of the tensor among the arguments of the function in that case.

    Raises:
        ValueError: a name that computes nothing of tensors alone.
    """

    def __init__(
        self, function: str, first: Any = None, parameter: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.function, self.first, self.parameter = function, first, parameter
        self._function = _function(function)

    def call(self, inputs: Any, **keywords: Any) -> Any:
        if self.parameter is None:
            return self._function(inputs, **keywords)
        if self.function.startswith("__operators__."):
            return self._function(self.first, inputs)
        return self._function(self.first, **{self.parameter: inputs}, **keywords)

    def get_config(self) -> dict[str, Any]:
        own = {"function": self.function, "first": self.first, "parameter": self.parameter}
        return {**super().get_config(), **own}


#: Parts of `tf` whose functions compute tensors of tensors and do nothing else.
_PARTS = ("image", "linalg", "math", "nn")
_FUNCTIONS = frozenset(
    {
        *("abs", "add", "broadcast_to", "cast", "clip_by_value", "concat", "divide", "einsum"),
        *("exp", "expand_dims", "gather", "identity", "matmul", "maximum", "minimum", "multiply"),
        *("negative", "ones_like", "pad", "pow", "reduce_max", "reduce_mean", "reduce_min"),
        *("reduce_sum", "repeat", "reshape", "reverse", "shape", "sigmoid", "slice", "split"),
        *("sqrt", "square", "squeeze", "stack", "strided_slice", "subtract", "tanh", "tensordot"),
        *("tile", "transpose", "unstack", "zeros_like", "compat.v1.shape", "compat.v1.transpose"),
    }
)


def _function(name: str) -> Any:
    part, _, rest = name.partition(".")
    if part == "__operators__":
        return _item if rest == "getitem" else _of_two(getattr(operator, rest))
    if name not in _FUNCTIONS and (part not in _PARTS or "." in rest):
        raise ValueError(f"tf.{name} is not among the functions that are read from files")
    found: Any = tf
    for step in name.split("."):
        found = getattr(found, step)
    return found


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An operator that takes its second argument by the name that Keras 2 gives it."""

    def call(left: Any, y: Any = None, **_: Any) -> Any:
        return function(left, y)

    return call


def _item(tensor: Any, slice_spec: Any) -> Any:
    """`tensor[...]` with the slices that a file has as dictionaries."""
    parts = slice_spec if isinstance(slice_spec, (list, tuple)) else [slice_spec]
    return tensor[tuple(_index(part) for part in parts)]


def _index(part: Any) -> Any:
    if isinstance(part, Mapping):
        return slice(part.get("start"), part.get("stop"), part.get("step"))
    return Ellipsis if part == "..." else part


#: What a file of Keras 2 may name, beside the layers of Keras 3.
OBJECTS: dict[str, Any] = {
    "SlicingOpLambda": TensorFlowFunction,
    "TFOpLambda": TensorFlowFunction,
    "ThresholdedReLU": ThresholdedReLU,
    "keras2_hard_sigmoid": keras2_hard_sigmoid,
}
