"""Reads the calls of a functional Keras model from its public configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

#: A tensor of a model: (operation name, index of its call, index of the output).
TensorKey = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Stands for a tensor among the arguments of a call."""

    key: TensorKey


@dataclasses.dataclass(frozen=True)
class TracedCall:
    """One call of a layer or of a `keras.ops` operation.

    Attributes:
        config: of the operation, which holds the settings of `keras.ops` calls.
        arguments: positional and keyword arguments; tensors are `Reference`s, also inside lists.
        tensors: all references among them, in order.
        output: key of the first output.
    """

    operation: keras.Operation
    config: Mapping[str, Any]
    arguments: tuple[Any, ...]
    tensors: tuple[TensorKey, ...]
    output: TensorKey


def functional(model: keras.Model) -> keras.Model:
    """The model over the same layers with flat lists of inputs and outputs.

    Raises:
        ValueError: neither functional nor a built Sequential model.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"expected a keras.Model, received {type(model).__name__}")
    inputs, outputs = _endpoints(model)
    if not inputs or not outputs:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has no symbolic inputs and outputs; "
            "pass a functional model, or a Sequential model built on an Input"
        )
    return keras.Model(inputs, outputs, name=model.name)


def _endpoints(model: keras.Model) -> tuple[Any, Any]:
    try:
        return model.inputs, model.outputs
    except (AttributeError, ValueError):
        return None, None


def input_names(model: keras.Model) -> list[str]:
    """Names of the input operations, in order."""
    return [key[0] for key in _flat_keys(model.get_config()["input_layers"])]


def output_keys(model: keras.Model) -> list[TensorKey]:
    return _flat_keys(model.get_config()["output_layers"])


def calls(model: keras.Model) -> list[TracedCall]:
    """Calls of a functional model in an order in which they can be executed."""
    config = model.get_config()
    operations = {operation.name: operation for operation in model.operations}
    traced = [
        _call(operations[entry["name"]], entry, index, node)
        for entry in config["layers"]
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    return _in_order(traced, _flat_keys(config["input_layers"]))


def _call(
    operation: keras.Operation, entry: Mapping[str, Any], index: int, node: Mapping[str, Any]
) -> TracedCall:
    arguments = tuple(_argument(value) for value in (*node["args"], *node["kwargs"].values()))
    return TracedCall(
        operation,
        entry["config"],
        arguments,
        tuple(_references(arguments)),
        (operation.name, index, 0),
    )


def _argument(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return Reference(tuple(value["config"]["keras_history"]))
        if "class_name" in value:
            return keras.saving.deserialize_keras_object(value)
        return {name: _argument(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_argument(item) for item in value)
    return value


def _references(value: Any) -> list[TensorKey]:
    if isinstance(value, Reference):
        return [value.key]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [key for item in value for key in _references(item)]
    return []


def _flat_keys(endpoints: Any) -> list[TensorKey]:
    if len(endpoints) == 3 and isinstance(endpoints[0], str):
        endpoints = [endpoints]
    return [(name, node, tensor) for name, node, tensor in endpoints]


def _in_order(traced: Sequence[TracedCall], inputs: Sequence[TensorKey]) -> list[TracedCall]:
    # The first output stands for all outputs of a call.
    ready = {key[:2] for key in inputs}
    ordered: list[TracedCall] = []
    waiting = list(traced)
    while waiting:
        runnable = [call for call in waiting if all(key[:2] in ready for key in call.tensors)]
        if not runnable:
            names = [call.operation.name for call in waiting]
            raise ValueError(f"layers {names} read tensors that nothing writes")
        ordered.extend(runnable)
        ready.update(call.output[:2] for call in runnable)
        waiting = [call for call in waiting if call.output[:2] not in ready]
    return ordered
