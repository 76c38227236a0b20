"""Reads the calls of a functional Keras model, in order, by having Keras walk through it.

`keras.models.clone_model` runs a model's graph with functions of the caller's: here they write down
which operation is called with what, constants among the arguments included. Nothing is copied, no
layer is asked for its configuration, and tensors are told apart by identity, not by name.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras

from tfeptq.preparation.received import require_model

#: Stands for a tensor of the model wherever a call reads or writes it; compared by identity.
Symbol: TypeAlias = keras.KerasTensor


@dataclasses.dataclass(frozen=True)
class TracedCall:
    """One call of a layer, of a nested model or of a `keras.ops` operation.

    Attributes:
        arguments, keywords: of the call; tensors are `Symbol`s, also inside lists, and everything
            else is what the user gave.
        outputs: in the order in which Keras flattens them.
    """

    operation: keras.Operation
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[Symbol, ...]


@dataclasses.dataclass(frozen=True)
class TracedInput:
    """An input of the model; `shape` is without the batch."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    is_sparse: bool
    symbol: Symbol


@dataclasses.dataclass(frozen=True)
class Trace:
    """A model as calls in execution order.

    Attributes:
        inputs, outputs: in the order of `Model.inputs` and `Model.outputs`.
        structure: of the outputs, where they are a dictionary or nested; None for a flat list.
    """

    inputs: tuple[TracedInput, ...]
    calls: tuple[TracedCall, ...]
    outputs: tuple[Symbol, ...]
    structure: Any = None


class _StandIn(keras.Operation):
    """Takes the place of a call in the copy that Keras makes: it has as many outputs."""

    def __init__(self, outputs: list[Symbol], name: str) -> None:
        super().__init__(name=name)
        self._outputs = outputs

    def compute_output_spec(self, *tensors: Symbol) -> list[Symbol]:
        return [keras.KerasTensor(made.shape, dtype=made.dtype) for made in self._outputs]


def trace(model: keras.Model) -> Trace:
    """Reads the topology of a functional or a built Sequential model.

    Raises:
        ValueError: neither of them, or its `call` is overridden.
    """
    structure = output_structure(model)
    model = flat_functional(model)
    calls: list[TracedCall] = []
    count = itertools.count()

    def record(operation: keras.Operation, *arguments: Any, **keywords: Any) -> list[Symbol]:
        made = _StandIn(keras.tree.flatten(operation.output), f"call_{next(count)}")
        outputs = made(*symbols((arguments, keywords)))
        calls.append(TracedCall(operation, arguments, keywords, tuple(outputs)))
        return outputs

    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=f"input_{index}")
        for index, tensor in enumerate(model.inputs)
    ]
    copy = keras.models.clone_model(
        model, input_tensors=inputs, clone_function=_itself, call_function=record
    )
    names = input_names(model)
    read = [
        TracedInput(
            names.get(id(tensor), tensor.name),
            tuple(tensor.shape[1:]),
            str(tensor.dtype),
            bool(tensor.sparse),
            symbol,
        )
        for tensor, symbol in zip(model.inputs, inputs, strict=True)
    ]
    return Trace(tuple(read), tuple(calls), tuple(copy.outputs), structure)


def output_structure(model: keras.Model) -> Any:
    """The dictionary or the nested lists that a model returns; None for one tensor or a list."""
    if not isinstance(model, keras.Model) or isinstance(model, keras.Sequential):
        return None
    structure = getattr(model, "output", None)
    items = structure if isinstance(structure, (list, tuple)) else [structure]
    return None if all(is_symbol(item) for item in items) else structure


def symbols(value: Any) -> list[Symbol]:
    """Tensors inside an argument, in the order in which Keras flattens it."""
    return [leaf for leaf in keras.tree.flatten(value) if is_symbol(leaf)]


def is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _itself(operation: keras.Operation) -> keras.Operation:
    return operation


def input_names(model: keras.Model) -> dict[int, str]:
    """Name of the input layer by the identity of its tensor."""
    return {
        id(layer.output): layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }


def flat_functional(model: keras.Model) -> keras.Model:
    """The model over the same layers with flat lists of inputs and outputs."""
    require_model(model)
    inputs, outputs = symbolic_endpoints(model)
    if not inputs or not outputs:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has no symbolic inputs and outputs; "
            "pass a functional model, or a Sequential model built on an Input (or by build)"
        )
    if not shows_its_graph(model):
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) overrides call(), which its graph of "
            "layers does not show; rebuild it as a functional model"
        )
    return keras.Model(inputs, outputs, name=model.name)


def shows_its_graph(model: keras.Model) -> bool:
    """Whether a model has symbolic inputs and outputs and computes what lies between them."""
    inputs, outputs = symbolic_endpoints(model)
    if not inputs or not outputs:
        return False
    plain = type(keras.Model(inputs, outputs))
    return type(model).call in (plain.call, keras.Sequential.call)


def symbolic_endpoints(model: keras.Model) -> tuple[Any, Any]:
    """Inputs and outputs of a functional or built Sequential model, (None, None) of any other."""
    try:
        return model.inputs, model.outputs
    except (AttributeError, ValueError):
        return None, None
