"""Activation functions and inference no-operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation import activations
from tfeptq.preparation.constants import array_of, broadcast_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.operations.arguments import Handler
from tfeptq.preparation.operations.reductions import inner_axes
from tfeptq.preparation.row_numbers import are_rows
from tfeptq.preparation.tables import tabulated


def _unary(function: Callable[[Node, str], Node]) -> Handler:
    return lambda operation, config, arguments: function(arguments[0], operation.name)


def _table(function: str, *settings: str) -> Handler:
    """A function of each number, with some of the operation's settings."""

    def handler(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
        given = {key: float(config[key]) for key in settings}
        return tabulated(arguments[0], operation.name, function, **given)

    return handler


def _glu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    (axis,) = inner_axes(operation, config["axis"], arguments[0])
    return activations.glu(arguments[0], operation.name, axis)


def _round(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    if config["decimals"]:
        raise UnsupportedLayerError(
            operation, f"rounds to {config['decimals']} decimals", "round to whole numbers"
        )
    return tabulated(arguments[0], operation.name, "round")


def _relu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """`keras.activations.relu`, which has the settings of the layer."""
    settings = {key: config[key] for key in ("negative_slope", "max_value", "threshold")}
    return activations.bounded_relu(arguments[0], operation.name, **settings)


def _leaky_relu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return activations.leaky_relu(arguments[0], operation.name, config["negative_slope"])


def _elu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return activations.elu(arguments[0], operation.name, float(config["alpha"]))


def _gelu(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return activations.gelu(arguments[0], operation.name, approximate=config["approximate"])


def _softmax(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    return activations.softmax_over(operation, arguments[0], config["axis"])


def _clip(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    node, name = arguments[0], operation.name
    low, high = array_of(config["x_min"]), array_of(config["x_max"])
    if np.any(low >= high):
        raise UnsupportedLayerError(
            operation, f"clips to [{low}, {high}]", "give a lower and then a higher bound"
        )
    if low.size == high.size == 1:
        return activations.clip(node, name, float(low.flat[0]), float(high.flat[0]))
    raised = pair(keras.layers.Maximum, f"{name}_low", node, broadcast_constant(name, low, node))
    return pair(keras.layers.Minimum, name, raised, broadcast_constant(name, high, raised))


def _cast(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    dtype = str(operation.output.dtype)
    given = str(operation.input.dtype)
    is_number = "int" in dtype and not keras.backend.is_float_dtype(given)
    if given == "bool" or (are_rows(arguments[0]) and (is_number or dtype == "bool")):
        # Numbers of rows are whole already; that a mask is of ones and zeros, prepare's proof says.
        return arguments[0]
    if not dtype.startswith(("float", "bfloat")):
        raise UnsupportedLayerError(
            operation, f"casts to {operation.output.dtype}", "keep tensors in floating point"
        )
    return arguments[0]


#: Class of an operation -> its name as a table.
_TABLES = {
    "Arccos": "arccos",
    "Arccosh": "arccosh",
    "Arcsin": "arcsin",
    "Arcsinh": "arcsinh",
    "Arctan": "arctan",
    "Arctanh": "arctanh",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp2": "exp2",
    "Expm1": "expm1",
    "Floor": "floor",
    "Log": "log",
    "Log10": "log10",
    "Log1p": "log1p",
    "Log2": "log2",
    "LogSigmoid": "log_sigmoid",
    "Reciprocal": "reciprocal",
    "Rsqrt": "rsqrt",
    "Selu": "selu",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "SparsePlus": "sparse_plus",
    "SparseSigmoid": "sparse_sigmoid",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "TanhShrink": "tanh_shrink",
    "Trunc": "trunc",
}
HANDLERS: dict[str, Handler] = {
    **{name: _table(function) for name, function in _TABLES.items()},
    "Celu": _table("celu", "alpha"),
    "Glu": _glu,
    "HardShrink": _table("hard_shrink", "threshold"),
    "NanToNum": _unary(lambda node, name: node),
    "Round": _round,
    "SoftShrink": _table("soft_shrink", "threshold"),
    "Squareplus": _table("squareplus", "b"),
    "Threshold": _table("threshold", "threshold", "default_value"),
    "Cast": _cast,
    "Clip": _clip,
    "ConvertToTensor": _cast,
    "Elu": _elu,
    "Exp": _unary(activations.named("exponential")),
    "Gelu": _gelu,
    "HardSigmoid": _unary(activations.hard_sigmoid),
    "HardSilu": _unary(activations.named("hard_silu")),
    "HardTanh": _unary(lambda node, name: activations.clip(node, name, -1.0, 1.0)),
    "LeakyRelu": _leaky_relu,
    "ReLU": _relu,
    "Relu": _unary(activations.relu),
    "Relu6": _unary(lambda node, name: activations.relu(node, name, 6.0)),
    "Sigmoid": _unary(activations.named("sigmoid")),
    "Silu": _unary(activations.silu),
    "Softmax": _softmax,
    "StopGradient": _unary(lambda node, name: node),
    "Tanh": _unary(activations.named("tanh")),
}
