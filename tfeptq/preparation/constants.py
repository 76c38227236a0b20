"""Arrays that a model reads: nodes of the graph like tensors, computed where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import MERGES, Affine, Constant, ConstantError, Graph, Node


def array_of(value: Any) -> np.ndarray:
    """A number, array, tensor or variable in float64.

    Raises:
        ConstantError: no numbers.
    """
    try:
        return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConstantError(f"has a constant that is no number ({error})") from error


def constant(name: str, array: np.ndarray) -> Node:
    """A node for an array without a batch dimension."""
    return Node(Constant, name, [], array.shape, {"value": array})


def batched_constant(operation: Any, value: Any) -> Node:
    """An array among the inputs of a layer; its first axis is the batch, as in every tensor."""
    try:
        array = array_of(value)
    except ConstantError as error:
        raise UnsupportedLayerError(operation, str(error), "call it with tensors") from error
    if not array.ndim or array.shape[0] != 1:
        raise UnsupportedLayerError(
            operation,
            f"reads a constant of shape {array.shape}, whose first axis is the batch",
            "give it the shape (1, ...)",
        )
    return constant(f"{operation.name}_constant", array[0])


def broadcast_constant(name: str, value: Any, node: Node) -> Node:
    """An array that NumPy's rules broadcast against a tensor with its batch.

    Raises:
        ConstantError: it would meet the batch.
    """
    array, rank = array_of(value), len(node.shape) + 1
    if array.ndim == rank and array.shape[0] == 1:
        array = array[0]
    if array.ndim >= rank:
        raise ConstantError(
            f"has a constant of shape {array_of(value).shape} on a tensor of shape "
            f"{(None, *node.shape)}, which varies with the sample"
        )
    return constant(f"{name}_constant", array.reshape(*[1] * (rank - 1 - array.ndim), *array.shape))


def computed(node: Node) -> Node:
    """The constant that a node of constants comes to."""
    if node.kind is Constant:
        return node
    values = [computed(source).options["value"] for source in node.inputs]
    return constant(node.name, _evaluated(node, values))


def refuse_constant_outputs(graph: Graph) -> None:
    for index, node in enumerate(graph.outputs):
        if node.kind is Constant:
            raise ValueError(
                f"output {index} of model {graph.name!r} ({node.name!r}) does not depend on the "
                "inputs; leave it out"
            )


def _evaluated(node: Node, values: Sequence[np.ndarray]) -> np.ndarray:
    if node.kind is Affine:
        return np.asarray(values[0] * node.options["scale"] + node.options["offset"])
    layer = node.kind(**node.options, dtype="float32")
    tensors = [keras.ops.convert_to_tensor(value[None], "float32") for value in values]
    given = tensors if isinstance(layer, MERGES) else tensors[0]
    if node.weights is not None:
        layer.build(tensors[0].shape)
        layer.set_weights(node.weights.arrays)
    return np.asarray(keras.ops.convert_to_numpy(layer(given)), np.float64)[0]
