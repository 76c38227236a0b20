"""Reads the calls of a functional Keras model from its public configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfeptq.graph.errors import UnsupportedLayerError

#: A tensor of a model: (operation name, index of its call, index of the output).
TensorKey = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Stands for a tensor among the arguments of a call."""

    key: TensorKey


@dataclasses.dataclass(frozen=True)
class TracedCall:
    """One call of a layer, of a nested model or of a `keras.ops` operation.

    Attributes:
        config: of the operation, which holds the settings of `keras.ops` calls.
        arguments, keywords: of the call; tensors are `Reference`s, also inside lists.
        tensors: all references among them, in order.
        output: key of the first output.
    """

    operation: keras.Operation
    config: Mapping[str, Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    tensors: tuple[TensorKey, ...]
    output: TensorKey


@dataclasses.dataclass(frozen=True)
class Trace:
    """A model as calls in execution order.

    Attributes:
        inputs: name and shape (without the batch) of each input, in the order of `Model.inputs`.
        outputs: in the order of `Model.outputs`.
    """

    inputs: tuple[tuple[str, tuple[int | None, ...]], ...]
    calls: tuple[TracedCall, ...]
    outputs: tuple[TensorKey, ...]


def trace(model: keras.Model) -> Trace:
    """Reads the topology of a functional or a built Sequential model.

    Raises:
        ValueError: neither of them, or its `call` is overridden.
        UnsupportedLayerError: a layer whose configuration cannot be read.
    """
    model = _functional(model)
    config = _config(model)
    operations = {operation.name: operation for operation in model.operations}
    inputs = _endpoints(config["input_layers"])
    calls = [
        _call(operations[entry["name"]], entry, index, node)
        for entry in config["layers"]
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    return Trace(
        tuple((key[0], shape) for key, shape in zip(inputs, shapes, strict=True)),
        tuple(_in_order(calls, inputs)),
        tuple(_output_key(operations, key) for key in _endpoints(config["output_layers"])),
    )


def references(value: Any) -> list[TensorKey]:
    """Keys of the tensors inside an argument, in the order in which Keras flattens it."""
    leaves = keras.tree.flatten(value)
    return [leaf.key for leaf in leaves if isinstance(leaf, Reference)]


def _functional(model: keras.Model) -> keras.Model:
    """The model over the same layers with flat lists of inputs and outputs."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"expected a keras.Model, received {type(model).__name__}")
    inputs, outputs = _symbolic_endpoints(model)
    if not inputs or not outputs:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has no symbolic inputs and outputs; "
            "pass a functional model, or a Sequential model built on an Input"
        )
    flat = keras.Model(inputs, outputs, name=model.name)
    if type(model).call not in (type(flat).call, keras.Sequential.call):
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) overrides call(), which its graph of "
            "layers does not show; rebuild it as a functional model"
        )
    return flat


def _symbolic_endpoints(model: keras.Model) -> tuple[Any, Any]:
    try:
        return model.inputs, model.outputs
    except (AttributeError, ValueError):
        return None, None


def _config(model: keras.Model) -> Mapping[str, Any]:
    try:
        return model.get_config()
    except (NotImplementedError, TypeError, ValueError):
        for operation in model.operations:
            _require_config(operation)
        raise


def _require_config(operation: keras.Operation) -> None:
    try:
        operation.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedLayerError(
            operation,
            "has a configuration that Keras cannot describe",
            "replace it with supported layers, and arrays in its settings with numbers",
        ) from error


def _call(
    operation: keras.Operation, entry: Mapping[str, Any], index: int, node: Mapping[str, Any]
) -> TracedCall:
    arguments = tuple(_argument(value) for value in node["args"])
    keywords = {name: _argument(value) for name, value in node["kwargs"].items()}
    return TracedCall(
        operation,
        entry["config"],
        arguments,
        keywords,
        tuple(references([*arguments, *keywords.values()])),
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


def _endpoints(keys: Any) -> list[TensorKey]:
    """The keys of a flat model's inputs or outputs; Keras unpacks a list of one."""
    if isinstance(keys[0], str):
        keys = [keys]
    return [(name, call, output) for name, call, output in keys]


def _output_key(operations: Mapping[str, keras.Operation], key: TensorKey) -> TensorKey:
    """The key as calls write it.

    Keras counts the calls of a nested functional model from 1 among a model's outputs, and from 0
    everywhere else.
    """
    name, call, output = key
    operation = operations[name]
    functional = isinstance(operation, keras.Model) and not isinstance(operation, keras.Sequential)
    return (name, call - 1 if functional else call, output)


def _in_order(traced: Sequence[TracedCall], inputs: Iterable[TensorKey]) -> list[TracedCall]:
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
