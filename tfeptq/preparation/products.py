"""Products of two computed tensors over axes that they share, as products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfeptq.canonical.matmul_layer import MatMul
from tfeptq.preparation.nodes import Node, primitive, reshape
from tfeptq.preparation.permutes import permute


def contract(name: str, left: Node, right: Node, axes: Sequence[str], result: str) -> Node:
    """Sums of products, with a letter for each axis as in `numpy.einsum`, without the batch.

    Args:
        axes: letters of the left and of the right tensor.
        result: letters of the result.

    Raises:
        ValueError: a letter of one tensor only is not in the result.
    """
    first, second = axes
    both = [letter for letter in first if letter in second]
    shared = [letter for letter in both if letter in result]
    summed = [letter for letter in both if letter not in result]
    rows = [letter for letter in first if letter not in both]
    columns = [letter for letter in second if letter not in both]
    if sorted([*shared, *rows, *columns]) != sorted(result):
        raise ValueError("it sums over an axis of one tensor alone")
    sizes = dict(zip(first, left.shape, strict=True)) | dict(zip(second, right.shape, strict=True))
    product = primitive(
        MatMul,
        name,
        [
            _matrices(left, f"{name}_left", first, (shared, rows, summed), sizes),
            _matrices(right, f"{name}_right", second, (shared, columns, summed), sizes),
        ],
        transpose_b=True,
    )
    made = [*shared, *rows, *columns]
    split = reshape(product, f"{name}_split", tuple(sizes[letter] for letter in made))
    return permute(split, f"{name}_result", [made.index(letter) for letter in result])


def _matrices(
    node: Node, name: str, letters: str, groups: Sequence[Sequence[str]], sizes: dict[str, int]
) -> Node:
    """The tensor with its axes in order, and those of a group as one."""
    order = [letters.index(letter) for group in groups for letter in group]
    shape = tuple(math.prod(sizes[letter] for letter in group) for group in groups)
    return reshape(permute(node, f"{name}_order", order), name, shape)
