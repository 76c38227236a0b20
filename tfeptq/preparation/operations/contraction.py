"""Sums of products over named axes as matrix products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.operations.arguments import Handler, only_tensor, weights
from tfeptq.preparation.permutes import permute
from tfeptq.preparation.products import contract
from tfeptq.preparation.separate_products import multiplied_separately


def _einsum(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    given, result = _terms(operation, config["subscripts"])
    operands = list(arguments[0] if isinstance(arguments[0], (list, tuple)) else arguments)
    if len(operands) < 2 or (len(operands) > 2 and "." in config["subscripts"]):
        raise UnsupportedLayerError(
            operation, f"has {len(operands)} operands", "contract two at a time"
        )
    while len(operands) > 2:
        # The axes that what is left still reads.
        left = {*result, *"".join(given[2:])}
        made = "".join(dict.fromkeys(name for name in given[0] + given[1] if name in left))
        operands[:2] = [_of_two(operation, operands[:2], given[:2], made)]
        given[:2] = [made]
    return only_tensor(operation, _of_two(operation, operands, given, result))


def _of_two(operation: Any, operands: list[Any], given: list[str], result: str) -> Any:
    """A node, or an array where both are arrays."""
    if not any(isinstance(operand, Node) for operand in operands):
        arrays = [weights(operation, operand) for operand in operands]
        return np.einsum(f"{','.join(given)}->{result}", *arrays)
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
    """A product over the axes that vanish, between two permutations.

    Axes that both have and that stay have a matrix for each of their places.
    """
    ellipsis = "0123456789"[: len(node.shape) + 1 - len(axes.replace("...", ""))]
    axes, result = axes.replace("...", ellipsis), result.replace("...", ellipsis)
    shared = [name for name in names if name in axes and name in result]
    summed = [name for name in names if name in axes and name not in result]
    new = [name for name in names if name not in axes]
    kept = [name for name in axes[1:] if name not in names]
    is_product = (
        result[:1] == axes[0]
        and axes[0] not in names
        and sorted(result[1:]) == sorted([*shared, *kept, *new])
    )
    if not is_product:
        raise UnsupportedLayerError(
            operation,
            f"subscripts of {axes!r}, {names!r} and {result!r} are no product with a matrix",
            "sum over axes that tensor and weights share only, and keep the others",
        )
    sizes = dict(zip(axes[1:], node.shape, strict=True)) | dict(
        zip(names, array.shape, strict=True)
    )
    order = [axes.index(name) - 1 for name in (*shared, *kept, *summed)]
    moved = permute(node, f"{operation.name}_order", order)
    kernel = np.transpose(array, [names.index(name) for name in (*shared, *summed, *new)])
    multiply = _separately if shared else _together
    product = multiply(operation.name, moved, kernel, (shared, kept, summed, new), sizes)
    made = [*shared, *kept, *new]
    split = reshape(product, f"{operation.name}_split", _sizes(sizes, made))
    return permute(split, f"{operation.name}_result", [made.index(name) for name in result[1:]])


def _together(
    name: str, node: Node, kernel: np.ndarray, groups: Sequence[list[str]], sizes: Mapping[str, int]
) -> Node:
    """All rows times one matrix."""
    _, kept, summed, new = groups
    inputs, units = _product(sizes, summed), _product(sizes, new)
    rows = reshape(node, f"{name}_rows", (*_sizes(sizes, kept), inputs))
    arrays = [kernel.reshape(inputs, units), np.zeros(units)]
    return primitive(keras.layers.Dense, name, [rows], weights=arrays, units=units)


def _separately(
    name: str, node: Node, kernel: np.ndarray, groups: Sequence[list[str]], sizes: Mapping[str, int]
) -> Node:
    """Rows of each place times the matrix of that place."""
    places, rows, terms, columns = (_product(sizes, group) for group in groups)
    flat = reshape(node, f"{name}_places", (places, rows, terms))
    return multiplied_separately(name, flat, kernel.reshape(places, terms, columns))


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
