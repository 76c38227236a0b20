"""`prepare`: trace, decompose, fold, rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfeptq.graph import layers, operations
from tfeptq.graph.affine import fold_affine
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.finite import check_constants, check_folded, check_weights
from tfeptq.graph.nodes import Graph, Input, Node, Shape
from tfeptq.graph.rebuild import rebuild
from tfeptq.graph.reshapes import sink_reshapes
from tfeptq.graph.trace import Reference, TensorKey, Trace, TracedCall, references, trace
from tfeptq.graph.weighted import Shared


def prepare(model: keras.Model) -> keras.Model:
    """A canonical model with the outputs of `model.predict` to float32 precision.

    It holds only Conv2D, DepthwiseConv2D and Dense layers (with bias, without activation), single
    activation layers, merges of two tensors, Concatenate, poolings, and layers that move data.
    Batch normalization and other constants are folded; inference no-operations are gone. Layers
    with weights keep their names. `model` is left untouched.

    Args:
        model: functional or Sequential, built; nested models are flattened.

    Raises:
        ValueError: the model is not built or not functional, or holds infinite or NaN weights.
        UnsupportedLayerError: a layer that cannot be placed, with the nearest supported way.
    """
    traced = trace(model)
    check_weights(model)
    inputs = [Node(Input, name, [], _static(shape, name)) for name, shape in traced.inputs]
    graph = Graph(model.name, inputs, _translate(traced, inputs, {}, ""))
    check_constants(graph)
    sink_reshapes(graph)
    fold_affine(graph)
    sink_reshapes(graph)
    check_folded(graph)
    return rebuild(graph)


def _static(shape: tuple[int | None, ...], name: str) -> Shape:
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise ValueError(
            f"input {name!r} has shape {(None, *shape)}; a file needs fixed sizes: rebuild the "
            "model with an Input of the size you deploy"
        )
    return sizes


def _translate(traced: Trace, inputs: Sequence[Node], shared: Shared, scope: str) -> list[Node]:
    """Nodes of the outputs of a functional model on the given inputs."""
    values: dict[TensorKey, Node] = {
        (name, 0, 0): node for (name, _), node in zip(traced.inputs, inputs, strict=True)
    }
    for call in traced.calls:
        sources = [values[key] for key in call.tensors]
        outputs = _outputs(call, sources, values, shared)
        _enter_scope(outputs, sources, scope)
        for index, node in enumerate(outputs):
            values[(*call.output[:2], index)] = node
    return [values[key] for key in traced.outputs]


def _outputs(
    call: TracedCall, sources: list[Node], values: dict[TensorKey, Node], shared: Shared
) -> list[Node]:
    operation = call.operation
    if isinstance(operation, keras.Layer):
        _check_call(call)
    if isinstance(operation, keras.Model):
        return _translate(_nested(operation), sources, shared, operation.name)
    if isinstance(operation, keras.Layer):
        return [layers.translate(operation, sources, shared)]
    arguments = [*call.arguments, *call.keywords.values()]
    return operations.translate(
        operation, call.config, tuple(_substituted(argument, values) for argument in arguments)
    )


def _check_call(call: TracedCall) -> None:
    """Refuses a second tensor, such as a mask; `training=True` has no effect in `predict`."""
    for name, value in call.keywords.items():
        if call.arguments and references(value):
            raise UnsupportedLayerError(
                call.operation, f"is called with a tensor as {name!r}", "call it without"
            )


def _nested(model: keras.Model) -> Trace:
    try:
        return trace(model)
    except UnsupportedLayerError:
        raise
    except ValueError as error:
        raise UnsupportedLayerError(
            model, "is a subclassed model", "rebuild it as a functional model"
        ) from error


def _enter_scope(outputs: Sequence[Node], sources: Sequence[Node], scope: str) -> None:
    """Marks the nodes of one call with the nested model it belongs to."""
    waiting = list(outputs) if scope else []
    while waiting:
        node = waiting.pop()
        if node not in sources and not node.scope:
            node.scope = scope
            waiting.extend(node.inputs)


def _substituted(argument: Any, values: dict[TensorKey, Node]) -> Any:
    """An argument with nodes in the place of references."""
    if isinstance(argument, Reference):
        return values[argument.key]
    if isinstance(argument, (list, tuple)):
        return type(argument)(_substituted(item, values) for item in argument)
    return argument
