"""What a call was given: tensors and constants as nodes, and nothing that would be ignored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfeptq.preparation.constants import batched_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import Node
from tfeptq.preparation.trace import Symbol, TracedCall, is_symbol

Values = Mapping[Symbol, Node]


def understood(call: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as Keras passes them on in inference: `training` only where `call` knows it."""
    kept = {name: value for name, value in keywords.items() if name != "training"}
    if "training" in inspect.signature(call).parameters:
        kept["training"] = False
    return kept


def bound_layer_call(call: TracedCall, values: Values) -> list[Node]:
    """The tensors and constants that a layer or a nested model reads, flattened as Keras does.

    The mask of a softmax is the last of them.

    Raises:
        UnsupportedLayerError: another argument says something, such as a mask; `training` has no
            effect in `predict`, whatever was given.
    """
    tensors, *others = _bound(call).items()
    for name, value in others:
        if name == "mask" and type(call.operation) is keras.layers.Softmax:
            continue
        if name != "training" and any(leaf is not None for leaf in keras.tree.flatten(value)):
            raise UnsupportedLayerError(
                call.operation, f"is called with {name!r}", "call it without"
            )
    given = tensors[1]
    if type(call.operation) is keras.layers.Softmax and dict(others).get("mask") is not None:
        given = [given, dict(others)["mask"]]
    return [
        values[leaf] if is_symbol(leaf) else batched_constant(call.operation, leaf)
        for leaf in keras.tree.flatten(given)
    ]


def averages_what_is_seen(call: TracedCall) -> bool:
    """Whether a pooling is told by a mask over what to average, as behind a masking embedding."""
    if type(call.operation) is not keras.layers.GlobalAveragePooling1D:
        return False
    return _bound(call).get("mask") is not None


def bound_step_call(call: TracedCall, values: Values) -> list[Node]:
    """What one step through time reads: tensors, and states that begin as constants."""
    return [
        values[leaf] if is_symbol(leaf) else batched_constant(call.operation, leaf)
        for leaf in keras.tree.flatten(call.arguments)
    ]


def bound_operation_call(call: TracedCall, values: Values) -> tuple[Any, ...]:
    """The arguments of an operation in the order of its parameters, nodes in place of tensors."""
    return tuple(_substituted(value, values) for value in _bound(call).values())


def _bound(call: TracedCall) -> dict[str, Any]:
    """Parameter -> argument; those that were not given have their defaults."""
    try:
        own = call.operation.call
        bound = inspect.signature(own).bind(*call.arguments, **understood(own, call.keywords))
    except TypeError as error:
        raise UnsupportedLayerError(
            call.operation,
            f"is called with arguments that it does not have ({error})",
            "call it so",
        ) from error
    bound.apply_defaults()
    variable = inspect.Parameter.VAR_KEYWORD
    kinds = {name: entry.kind for name, entry in bound.signature.parameters.items()}
    named = {name: value for name, value in bound.arguments.items() if kinds[name] != variable}
    extra = [value for name, value in bound.arguments.items() if kinds[name] == variable]
    return {**named, **(extra[0] if extra else {})}


def _substituted(argument: Any, values: Values) -> Any:
    """An argument with nodes in the place of tensors."""
    if is_symbol(argument):
        return values[argument]
    if isinstance(argument, (list, tuple)):
        return type(argument)(_substituted(item, values) for item in argument)
    return argument
