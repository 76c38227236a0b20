"""Which kernels compute a function of one number: those that the target has in the wanted types.

Its own operator where there is one, otherwise a table of its results, otherwise operators that give
the same together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import keras
import numpy as np

from tfeptq.canonical.integer_types import activation_dtype
from tfeptq.canonical.table_layer import Table
from tfeptq.canonical.tabulated import FUNCTIONS
from tfeptq.config import QuantizationConfig
from tfeptq.preparation import activations
from tfeptq.preparation.nodes import Graph, Node, affine, primitive
from tfeptq.preparation.normalizations import rsqrt
from tfeptq.preparation.rewriting import Rewriting
from tfeptq.preparation.tables import tabulated
from tflite_export import targets
from tflite_export.operators.tables import CAST

_L = keras.layers
#: Function of an `Activation` -> its name as a table, where that is another.
_NAMES = {"exponential": "exp"}
#: Functions that operators of 16 bits compute as well as a table, which would take 128 KiB.
_ONLY_COMPOSED = ("hard_silu",)


def choose_kernels(graph: Graph, config: QuantizationConfig) -> None:
    """Rewrites the functions that the target of a request has no operator for.

    Raises:
        ValueError: the target has neither an operator nor tables; names the layer and the targets
            that have.
    """
    rewriting = Rewriting(graph)
    for node in graph.nodes():
        if not _is_function(node):
            continue
        made = _chosen(node, config.target, _types(node, config.activation_bits))
        if made is not node:
            made.scope, made.is_own = node.scope, node.is_own
            rewriting.replace(node, made)
        elif node.kind is Table:
            _refuse_missing(node, config.target)


def _refuse_missing(node: Node, target: str) -> None:
    problem = _problem(node, target, {"int8"})
    if problem:
        function = node.options["steps"][0][0]
        raise ValueError(
            f"layer {node.name!r}: target {target!r} has no operator for {function!r}, and no "
            f"tables of functions: {problem}"
        )


def _types(node: Node, asked: int | tuple[int, ...] | Mapping[str, int]) -> set[str]:
    """Integer types that a node may have by a request."""
    if isinstance(asked, Mapping):
        asked = asked.get(node.name, 8)
    widths = asked if isinstance(asked, tuple) else (asked,)
    return {activation_dtype(width) for width in widths}


def _is_function(node: Node) -> bool:
    return node.kind is _L.LeakyReLU or _function_of(node) in FUNCTIONS


def _function_of(node: Node) -> str | None:
    """The name as a table of what a node computes."""
    if node.kind is Table:
        return node.options["steps"][0][0]
    function = node.options.get("activation") if node.kind is _L.Activation else None
    name = getattr(function, "__name__", str(function))
    return _NAMES.get(name, name)


def _chosen(node: Node, target: str, wanted: set[str]) -> Node:
    # Where not all of the types can be had, int8 is; layers then keep to it.
    for types in (wanted, {"int8"}):
        for made in (node, *_alternatives(node, is_one_type=len(types) == 1)):
            if all(_executes(each, target, types) for each in _new(made, node)):
                return made
    return node


def _alternatives(node: Node, *, is_one_type: bool) -> Iterator[Node]:
    """Others that compute the same.

    Args:
        is_one_type: candidates of two types keep to one operator, which most layers will use.
    """
    source, function = node.inputs[0], _function_of(node)
    if node.kind is _L.Activation and function not in _ONLY_COMPOSED:
        yield tabulated(source, node.name, str(function))
    if node.kind is _L.LeakyReLU:
        yield _prelu(node)
    elif is_one_type and function in _COMPOSED:
        yield _COMPOSED[function](source, node.name)


def _executes(node: Node, target: str, types: Collection[str]) -> bool:
    return _problem(node, target, types) is None


def _problem(node: Node, target: str, types: Collection[str]) -> str | None:
    """Why a target does not execute a node in some of the types, or None where it does."""
    if node.row is None:
        return None
    kinds = [node.row.kind_of(node.kind(**node.options))]
    kinds += [CAST.name] if node.row.tabulates else []
    found = (
        targets.check_operator(target, kind, activation_dtype=dtype)
        for kind in kinds
        for dtype in sorted(types)
    )
    return next((problem for problem in found if problem), None)


def _new(made: Node, old: Node) -> list[Node]:
    """The nodes that stand for another: what it does not read, from near or far."""
    read = _behind(old.inputs, set())
    return [made] if made is old else list(_behind([made], read))


def _behind(nodes: Iterable[Node], without: Collection[Node]) -> set[Node]:
    """Nodes and all that they read."""
    waiting, found = list(nodes), set[Node]()
    while waiting:
        node = waiting.pop()
        if node not in found and node not in without:
            found.add(node)
            waiting += node.inputs
    return found


def _prelu(node: Node) -> Node:
    """A slope for negative numbers as one of each channel."""
    source = node.inputs[0]
    slopes = np.full((*[1] * (len(source.shape) - 1), source.shape[-1]), _slope(node))
    axes = list(range(1, len(source.shape)))
    return primitive(_L.PReLU, node.name, [source], weights=[slopes], shared_axes=axes)


def _slope(node: Node) -> float:
    return float(node.options["negative_slope"])


def _hard_silu(node: Node, name: str) -> Node:
    """x min(max(x / 6 + 1 / 2, 0), 1)."""
    gate = activations.hard_sigmoid(node, f"{name}_gate")
    return primitive(_L.Multiply, name, [node, gate])


def _sqrt(node: Node, name: str) -> Node:
    """x / sqrt(x)."""
    return primitive(_L.Multiply, name, [node, rsqrt(node, f"{name}_rsqrt")])


def _gelu_tanh(node: Node, name: str) -> Node:
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), for 1 + tanh(z) = 2 sigmoid(2 z)."""
    slope = 2.0 * math.sqrt(2.0 / math.pi)
    squares = primitive(_L.Multiply, f"{name}_squares", [node, node])
    factor = affine(squares, f"{name}_factor", 0.044715 * slope, slope)
    argument = primitive(_L.Multiply, f"{name}_argument", [node, factor])
    gate = activations.named("sigmoid")(argument, f"{name}_sigmoid")
    return primitive(_L.Multiply, name, [node, gate])


#: Name as a table -> operators that give the same together.
_COMPOSED: dict[str, Callable[[Node, str], Node]] = {
    "gelu_tanh": _gelu_tanh,
    "hard_silu": _hard_silu,
    "rsqrt": rsqrt,
    "silu": activations.silu,
    "sqrt": _sqrt,
}
