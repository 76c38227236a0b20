"""Sums of products over named axes as matrix products."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.operations.arguments import Handler, only_tensor, weights
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.products import contract


def _einsum(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    given, result = _terms(operation, config["subscripts"])
    operands = list(arguments[0] if isinstance(arguments[0], (list, tuple)) else arguments)
    if len(operands) != 2 or len(given) != 2:
        raise UnsupportedLayerError(
            operation, f"has {len(operands)} operands", "contract two at a time"
        )
    if all(isinstance(operand, Node) for operand in operands):
        return _of_tensors(operation, operands, given, result)
    if not isinstance(operands[0], Node):
        operands, given = operands[::-1], given[::-1]
    node = only_tensor(operation, operands[0])
    return _with_weights(
        operation, node, given[0], weights(operation, operands[1]), given[1], result
    )


def _terms(operation: Any, subscripts: str) -> tuple[list[str], str]:
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = given.split(",")
    named = [term.replace("...", "") for term in (*terms, result)]
    repeats = any(len(set(term)) < len(term) for term in named)
    if not arrow or repeats:
        raise UnsupportedLayerError(
            operation, f"subscripts={subscripts!r}", "name every axis once, and those of the result"
        )
    return terms, result


def _of_tensors(operation: Any, operands: list[Node], axes: list[str], result: str) -> Node:
    left, right = operands
    if len({axes[0][:1], axes[1][:1], result[:1]}) > 1 or "." in axes[0] + axes[1]:
        raise UnsupportedLayerError(
            operation, f"subscripts of {axes} and {result!r} move the batch", "keep the first axis"
        )
    inner = [letters[1:] for letters in axes]
    try:
        return contract(operation.name, left, right, inner, result[1:])
    except ValueError as error:
        raise UnsupportedLayerError(
            operation, str(error), "keep the axes that one tensor has alone"
        ) from error


def _with_weights(
    operation: Any, node: Node, axes: str, array: np.ndarray, names: str, result: str
) -> Node:
    """A Dense layer over the axes that vanish, between two permutations."""
    ellipsis = "0123456789"[: len(node.shape) + 1 - len(axes.replace("...", ""))]
    axes, result = axes.replace("...", ellipsis), result.replace("...", ellipsis)
    summed = [name for name in names if name in axes]
    new = [name for name in names if name not in axes]
    kept = [name for name in axes[1:] if name not in summed]
    is_product = (
        result[:1] == axes[0]
        and axes[0] not in names
        and set(summed).isdisjoint(result)
        and sorted(result[1:]) == sorted([*kept, *new])
    )
    if not is_product:
        raise UnsupportedLayerError(
            operation,
            f"subscripts of {axes!r}, {names!r} and {result!r} are no product with a matrix",
            "sum over all axes that tensor and weights share, and keep the others",
        )
    sizes = dict(zip(axes[1:], node.shape, strict=True)) | dict(
        zip(names, array.shape, strict=True)
    )
    inputs, units = _product(sizes, summed), _product(sizes, new)
    kernel = np.transpose(array, [names.index(name) for name in (*summed, *new)])
    moved = permute(node, f"{operation.name}_order", [axes.index(n) - 1 for n in (*kept, *summed)])
    rows = reshape(moved, f"{operation.name}_rows", (*_sizes(sizes, kept), inputs))
    dense = primitive(
        keras.layers.Dense,
        operation.name,
        [rows],
        weights=[kernel.reshape(inputs, units), np.zeros(units)],
        units=units,
    )
    split = reshape(dense, f"{operation.name}_split", _sizes(sizes, (*kept, *new)))
    made = [*kept, *new]
    return permute(split, f"{operation.name}_result", [made.index(name) for name in result[1:]])


def _sizes(sizes: Mapping[str, int], names: Any) -> tuple[int, ...]:
    return tuple(int(sizes[name]) for name in names)


def _product(sizes: Mapping[str, int], names: Any) -> int:
    return math.prod(_sizes(sizes, names))


def _tensordot(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """Sums over the last axes of the tensor and the first ones of the weights."""
    node, array = only_tensor(operation, arguments[0]), weights(operation, arguments[1])
    chosen = config["axes"]
    rank = len(node.shape) + 1
    pairs = (
        [list(range(rank - chosen, rank)), list(range(chosen))]
        if isinstance(chosen, int)
        else [
            [axis % size for axis in np.atleast_1d(part)]
            for part, size in zip(chosen, (rank, array.ndim), strict=True)
        ]
    )
    letters = "abcdefghijklmnopqrstuvwxyz"
    axes, names = letters[:rank], list(letters[rank : rank + array.ndim])
    for left, right in zip(*pairs, strict=True):
        names[right] = axes[left]
    summed = {axes[left] for left in pairs[0]}
    result = "".join(name for name in (*axes, *names) if name not in summed)
    return _with_weights(operation, node, axes, array, "".join(names), result)


HANDLERS: dict[str, Handler] = {"Einsum": _einsum, "Tensordot": _tensordot}
