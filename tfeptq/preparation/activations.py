"""Activation functions as primitives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfeptq.canonical.functions import gelu_tanh
from tfeptq.preparation.constants import constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, affine, primitive, reshape
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.slices import take
from tfeptq.preparation.tables import tabulated
from tflite_export.graph import limits

#: Bounds of which a ReLU's shift takes too many codes, where values end far from them.
_FAR = 4.0
#: No kernel holds values beyond: a bound there bounds nothing.
NO_BOUND = 127 * limits.HIGHEST_SCALE
NEAREST = "use a function of keras.activations, and fine-tune"


def relu(node: Node, name: str, maximum: float | None = None) -> Node:
    return primitive(keras.layers.ReLU, name, [node], max_value=maximum)


def leaky_relu(node: Node, name: str, slope: float) -> Node:
    return primitive(keras.layers.LeakyReLU, name, [node], negative_slope=float(slope))


def elu(node: Node, name: str, alpha: float = 1.0) -> Node:
    """Kernels know alpha = 1; another one is a slope of what is negative behind it."""
    if alpha == 1.0:
        return named("elu")(node, name)
    return leaky_relu(named("elu")(node, f"{name}_elu"), name, alpha)


def named(function: str) -> Callable[[Node, str], Node]:
    """A primitive that Keras knows as an activation function."""
    return lambda node, name: primitive(keras.layers.Activation, name, [node], activation=function)


def gelu(node: Node, name: str, *, approximate: bool) -> Node:
    function = gelu_tanh if approximate else "gelu"
    return primitive(keras.layers.Activation, name, [node], activation=function)


def silu(node: Node, name: str) -> Node:
    gate = named("sigmoid")(node, f"{name}_sigmoid")
    return primitive(keras.layers.Multiply, name, [node, gate])


def glu(node: Node, name: str, axis: int) -> Node:
    """The first half of an axis, counted without the batch, times the sigmoid of the second."""
    half = node.shape[axis] // 2
    values = take(node, f"{name}_values", axis, 0, half)
    gates = take(node, f"{name}_gates", axis, half, 2 * half)
    shares = named("sigmoid")(gates, f"{name}_sigmoid")
    return primitive(keras.layers.Multiply, name, [values, shares])


def hard_sigmoid(node: Node, name: str) -> Node:
    """relu6(x + 3) / 6, as min(max(x / 6 + 1 / 2, 0), 1): what is affine comes first."""
    return relu(affine(node, f"{name}_shift", 1.0 / 6.0, 0.5), name, 1.0)


def softmax(node: Node, name: str) -> Node:
    return primitive(keras.layers.Softmax, name, [node])


def softmax_over(operation: Any, node: Node, axis: Any) -> Node:
    """A softmax over one or more axes, counted with the batch; kernels take the last one."""
    rank, name = len(node.shape), operation.name
    chosen = [int(each) % (rank + 1) - 1 for each in np.atleast_1d(axis)]
    if min(chosen) < 0:
        raise UnsupportedLayerError(operation, f"axis={axis}", "apply it to axes of a sample")
    order = [index for index in range(rank) if index not in chosen] + chosen
    moved = permute(node, f"{name}_order", order)
    kept = moved.shape[: rank - len(chosen)]
    flat = (*kept, math.prod(moved.shape[len(kept) :]))
    shares = softmax(reshape(moved, f"{name}_flat", flat), name)
    back = [order.index(index) for index in range(rank)]
    return permute(reshape(shares, f"{name}_axes", moved.shape), f"{name}_back", back)


def clip(node: Node, name: str, low: float, high: float) -> Node:
    """min(max(x, low), high); bounds that nothing reaches, or that are infinite, are none.

    A ReLU between two shifts where zero is near: it costs no operator, but its codes begin at the
    lower bound, whether values come near it or not.
    """
    if high >= NO_BOUND:
        return at_least(node, name, low)
    if low <= -NO_BOUND:
        return at_most(node, name, high)
    if abs(low) > _FAR:
        raised = _bounded(keras.layers.Maximum, f"{name}_low", node, low)
        return _bounded(keras.layers.Minimum, name, raised, high)
    return _shifted_relu(node, name, low, high - low)


def at_least(node: Node, name: str, low: float) -> Node:
    """max(x, low), see `clip`."""
    if low <= -NO_BOUND:
        return node
    if abs(low) > _FAR:
        return _bounded(keras.layers.Maximum, name, node, low)
    return _shifted_relu(node, name, low, None)


def at_most(node: Node, name: str, high: float) -> Node:
    """min(x, high), see `clip`: a ReLU of the negative."""
    if high >= NO_BOUND:
        return node
    if abs(high) > _FAR:
        return _bounded(keras.layers.Minimum, name, node, high)
    negated = affine(node, f"{name}_negate", -1.0, 0.0)
    return affine(_shifted_relu(negated, name, -high, None), f"{name}_restore", -1.0, 0.0)


def _bounded(kind: type, name: str, node: Node, bound: float) -> Node:
    """A maximum or minimum with a constant, in whatever codes the tensor has."""
    value = np.full((1,) * len(node.shape), bound)
    return primitive(kind, name, [node, constant(f"{name}_bound", value)])


def _shifted_relu(node: Node, name: str, low: float, reach: float | None) -> Node:
    shifted = affine(node, f"{name}_shift", 1.0, -low)
    return affine(relu(shifted, name, reach), f"{name}_unshift", 1.0, low)


def _table(function: str, **settings: float) -> Callable[[Node, str], Node]:
    return lambda node, name: tabulated(node, name, function, **settings)


_FUNCTIONS: dict[str, Callable[[Node, str], Node]] = {
    "linear": lambda node, name: node,
    "relu": relu,
    "relu6": lambda node, name: relu(node, name, 6.0),
    "gelu": named("gelu"),
    "elu": elu,
    "exponential": named("exponential"),
    "leaky_relu": lambda node, name: leaky_relu(node, name, 0.2),
    "silu": silu,
    "swish": silu,
    "hard_silu": named("hard_silu"),
    "hard_swish": named("hard_silu"),
    "sigmoid": named("sigmoid"),
    "hard_sigmoid": hard_sigmoid,
    "tanh": named("tanh"),
    "hard_tanh": lambda node, name: clip(node, name, -1.0, 1.0),
    "softmax": softmax,
    **{name: _table(name) for name in ("selu", "softplus", "softsign", "mish", "log_sigmoid")},
    **{name: _table(name) for name in ("tanh_shrink", "sparse_plus", "sparse_sigmoid")},
    "celu": _table("celu", alpha=1.0),
    "glu": lambda node, name: glu(node, name, len(node.shape) - 1),
    "hard_shrink": _table("hard_shrink", threshold=0.5),
    "soft_shrink": _table("soft_shrink", threshold=0.5),
    "squareplus": _table("squareplus", b=4),
}


def activate(node: Node, layer: Any, name: str | None = None) -> Node:
    """Applies the `activation` of a layer; the new node is called `{layer}_{function}`."""
    function = layer.activation
    if type(function) is keras.layers.ReLU:
        return relu_layer(node, function, name or f"{layer.name}_relu")
    if type(function) is keras.layers.LeakyReLU:
        return leaky_relu(node, name or f"{layer.name}_leaky_relu", function.negative_slope)
    title = getattr(function, "__name__", type(function).__name__)
    if title not in _FUNCTIONS:
        raise UnsupportedLayerError(layer, f"activation {title!r} has no integer kernel", NEAREST)
    return _FUNCTIONS[title](node, name or f"{layer.name}_{title}")


def is_foreign(function: Any) -> bool:
    """Whether an activation is a user's function or a layer, which says itself what it computes.

    A function of a user's may bear a known name and compute something else.
    """
    if function is None or type(function) in (keras.layers.ReLU, keras.layers.LeakyReLU):
        return False
    if isinstance(function, keras.Layer):
        return True
    return getattr(function, "__module__", "").partition(".")[0] not in ("keras", "tensorflow")


def relu_layer(node: Node, layer: keras.layers.ReLU, name: str) -> Node:
    return bounded_relu(
        node,
        name,
        negative_slope=layer.negative_slope,
        max_value=layer.max_value,
        threshold=layer.threshold,
    )


def bounded_relu(
    node: Node,
    name: str,
    *,
    negative_slope: float | None,
    max_value: float | None,
    threshold: float | None,
) -> Node:
    """The ReLU of a layer or operation with its bounds and slope."""
    if threshold:
        return tabulated(
            node,
            name,
            "relu",
            negative_slope=float(negative_slope or 0.0),
            max_value=None if max_value is None else float(max_value),
            threshold=float(threshold),
        )
    if not negative_slope:
        return relu(node, name, None if max_value is None else float(max_value))
    if max_value is None:
        return leaky_relu(node, name, negative_slope)
    sloped = leaky_relu(node, f"{name}_slope", negative_slope)
    return at_most(sloped, name, float(max_value))
