"""`prepare`: trace, decompose, fold, rebuild."""

from __future__ import annotations

from typing import Any

import keras

from tfeptq.graph import layers, operations, trace
from tfeptq.graph.affine import fold_affine
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.nodes import Graph, Input, Node
from tfeptq.graph.rebuild import rebuild
from tfeptq.graph.reshapes import sink_reshapes
from tfeptq.graph.weighted import Shared


def prepare(model: keras.Model) -> keras.Model:
    """A canonical model with the outputs of `model` to float32 precision.

    It holds only Conv2D, DepthwiseConv2D and Dense layers (with bias, without activation), single
    activation layers, merges of two tensors, Concatenate, poolings, and layers that move data.
    Batch normalization and other constants are folded; inference no-operations are gone. Layers
    with weights keep their names. `model` is left untouched.

    Args:
        model: functional or Sequential, built; nested models are flattened.

    Raises:
        ValueError: the model is not built or not functional.
        UnsupportedLayerError: a layer that cannot be placed, with the nearest supported way.
    """
    flat = trace.functional(model)
    inputs = [
        Node(Input, name, [], _static_shape(tensor, name))
        for name, tensor in zip(trace.input_names(flat), flat.inputs, strict=True)
    ]
    graph = Graph(model.name, inputs, _translate(flat, inputs, {}, ""))
    sink_reshapes(graph)
    fold_affine(graph)
    sink_reshapes(graph)
    return rebuild(graph)


def _static_shape(tensor: Any, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise ValueError(
            f"input {name!r} has shape {tensor.shape}; a file needs fixed sizes: rebuild the model "
            "with an Input of the size you deploy"
        )
    return shape


def _translate(model: keras.Model, inputs: list[Node], shared: Shared, scope: str) -> list[Node]:
    """Nodes of the outputs of a functional model on the given inputs."""
    values: dict[trace.TensorKey, Node] = {
        (name, 0, 0): node for name, node in zip(trace.input_names(model), inputs, strict=True)
    }
    for call in trace.calls(model):
        sources = [values[key] for key in call.tensors]
        for index, node in enumerate(_outputs(call, sources, values, shared)):
            node.scope = node.scope or scope
            values[(*call.output[:2], index)] = node
    return [values[key] for key in trace.output_keys(model)]


def _outputs(
    call: trace.TracedCall,
    sources: list[Node],
    values: dict[trace.TensorKey, Node],
    shared: Shared,
) -> list[Node]:
    operation = call.operation
    if isinstance(operation, keras.Model):
        return _translate(_nested(operation), sources, shared, operation.name)
    if isinstance(operation, keras.Layer):
        return [layers.translate(operation, sources, shared)]
    arguments = tuple(_substituted(argument, values) for argument in call.arguments)
    return [operations.translate(operation, call.config, arguments)]


def _nested(model: keras.Model) -> keras.Model:
    try:
        return trace.functional(model)
    except ValueError as error:
        raise UnsupportedLayerError(
            model, "is a subclassed model", "rebuild it as a functional model"
        ) from error


def _substituted(argument: Any, values: dict[trace.TensorKey, Node]) -> Any:
    """An argument with nodes in the place of references."""
    if isinstance(argument, trace.Reference):
        return values[argument.key]
    if isinstance(argument, (list, tuple)):
        return type(argument)(_substituted(item, values) for item in argument)
    return argument
