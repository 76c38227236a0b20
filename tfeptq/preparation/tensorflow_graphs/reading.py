"""A TensorFlow function read on symbolic Keras tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfeptq.preparation.tensorflow_graphs.folding import fold
from tfeptq.preparation.tensorflow_graphs.frozen import frozen
from tfeptq.preparation.tensorflow_graphs.operators import OPERATORS
from tfeptq.preparation.tensorflow_graphs.scope import Scope
from tfeptq.preparation.tensorflow_graphs.values import (
    BATCH,
    UnreadableGraphError,
    is_tensor,
    per_sample,
    symbol,
)


def read(function: Callable[..., Any], inputs: Sequence[Any], names: Collection[str] = ()) -> Any:
    """Outputs of a TensorFlow function of symbolic Keras tensors, with the graph behind them.

    Args:
        function: of TensorFlow tensors, as many as `inputs`; its variables become constants.
        inputs: Keras tensors of known sizes but for the batch.
        names: of layers that it calls.

    Returns:
        What the function returns, with Keras tensors in it, or arrays where nothing depends on the
        inputs.

    Raises:
        UnreadableGraphError: an operator, or a use of the samples' axis, that has no place.
    """
    if any(None in tensor.shape[1:] for tensor in inputs):
        raise UnreadableGraphError("sizes of its inputs are open")
    signature = [tf.TensorSpec((BATCH, *x.shape[1:]), x.dtype) for x in inputs]
    structured: list[Any] = []

    def flat(*tensors: tf.Tensor) -> list[tf.Tensor]:
        outputs = function(*tensors)
        structured.append(outputs)
        return [tf.identity(tf.convert_to_tensor(x)) for x in keras.tree.flatten(outputs)]

    concrete = tf.function(flat, autograph=False).get_concrete_function(*signature)
    graph = frozen(concrete)
    tensors = [per_sample(symbol(value)) for value in _outputs(graph, inputs, Scope(names))]
    return keras.tree.pack_sequence_as(structured[-1], tensors)


def _outputs(graph: Any, inputs: Sequence[Any], scope: Scope) -> list[Any]:
    values: dict[str, Any] = {
        tensor.name: given for tensor, given in zip(graph.inputs, inputs, strict=True)
    }
    for operation in graph.graph.get_operations():
        if operation.type == "Placeholder" or not operation.outputs:
            continue
        read = [values[tensor.name] for tensor in operation.inputs]
        made = _computed(operation, read, scope)
        values.update(zip((tensor.name for tensor in operation.outputs), made, strict=False))
    return [values[tensor.name] for tensor in graph.outputs]


def _computed(operation: tf.Operation, read: list[Any], scope: Scope) -> list[Any]:
    if operation.type == "Const":
        return [tf.make_ndarray(operation.get_attr("value"))]
    is_constant = not any(is_tensor(value) for value in read)
    is_plain = not operation.op_def.is_stateful and all(
        tensor.dtype != tf.variant for tensor in operation.outputs
    )
    if is_constant and is_plain:
        return list(fold(operation, read))
    if is_constant or operation.type not in OPERATORS:
        raise UnreadableGraphError(
            f"it uses the TensorFlow operator {operation.type} ({operation.name!r}), which is not "
            "translated"
        )
    outputs = OPERATORS[operation.type](operation, read, scope)
    return outputs if isinstance(outputs, list) else [outputs]
