"""Layers made of layers and operations, read by calling their `call` on symbolic tensors.

The inner graph of a layer is that of its `call`: sub-layers are shared as they are, and what they
are made of is read in the same way. A `call` that computes with TensorFlow itself is read from its
TensorFlow graph. One that looks at values cannot be read; the reason is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from tfeptq.preparation import tensorflow_graphs, variable_operators
from tfeptq.preparation.calls import understood
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.inlining import inlined
from tfeptq.preparation.operation_names import name_operations
from tfeptq.preparation.recurrent import UnrolledError, stepwise
from tfeptq.preparation.registered import decomposition
from tfeptq.preparation.trace import Symbol, TracedCall, is_symbol, symbols, trace

_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True)
class Inside:
    """What one call of a layer computes.

    Attributes:
        inputs: tensors around the layer that the call reads.
        model: of them, whose outputs are the call's; None where all are constants.
        outputs: of the call in order: None for the next one of `model`, or a constant.
    """

    inputs: tuple[Symbol, ...]
    model: keras.Model | None
    outputs: tuple[Any, ...]


class UnreadableCallError(ValueError):
    """A `call` that does not run on symbolic tensors; the message is the reason, in one line."""


def inside(call: TracedCall, shapes: Callable[[Symbol], tuple[int, ...]]) -> Inside:
    """What one call of a layer computes, from its `call`.

    Args:
        shapes: of tensors, without the batch: the graph around them may leave sizes open.

    Raises:
        UnsupportedLayerError: its `call` cannot be read.
    """
    read = list(dict.fromkeys(symbols((call.arguments, call.keywords))))
    try:
        return of_any_batch(lambda batch: _inside(call, read, shapes, batch))
    except UnreadableCallError as error:
        raise UnsupportedLayerError(
            call.operation,
            f"is not supported, and its call cannot be read as a graph of layers ({error})",
            "write it with supported layers and keras.ops",
        ) from error


def of_any_batch(read: Callable[[int | None], _Read]) -> _Read:
    """What is read with an open batch, or where a `call` needs the number, with one sample.

    Raises:
        UnreadableCallError: neither is possible; says why the open batch is not.
    """
    try:
        return read(None)
    except UnreadableCallError as error:
        try:
            return read(1)
        except UnreadableCallError:
            raise error from error.__cause__


def _inside(
    call: TracedCall,
    read: Sequence[Symbol],
    shapes: Callable[[Symbol], tuple[int, ...]],
    batch: int | None,
) -> Inside:
    inputs = {
        symbol: keras.Input(
            batch_shape=(symbol.shape[0] or batch, *shapes(symbol)),
            dtype=symbol.dtype,
            name=f"input_{index}",
        )
        for index, symbol in enumerate(read)
    }
    arguments, keywords = _with_inputs((call.arguments, dict(call.keywords)), inputs)
    outputs = keras.tree.flatten(called(call.operation, *arguments, **keywords))
    if len(outputs) != len(call.outputs) or any(output is None for output in outputs):
        raise UnreadableCallError(
            f"it returns {[type(output).__name__ for output in outputs]} where the layer has "
            f"{len(call.outputs)} outputs; return as many tensors"
        )
    tensors = [output for output in outputs if is_symbol(output)]
    model = functional(list(inputs.values()), tensors, call.operation) if tensors else None
    made = tuple(None if is_symbol(output) else output for output in outputs)
    return Inside(tuple(read), model, made)


def called(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
    """Outputs of a layer's `call` in inference mode, with the graph behind them.

    `Layer.__call__` would hide what is inside the layer.

    A `call` of TensorFlow's own functions is read from the graph that TensorFlow makes of it.

    Raises:
        UnreadableCallError: neither is possible.
    """
    call = decomposition(layer) or stepwise(layer) or layer.call
    keywords = understood(call, keywords)
    try:
        with variable_operators.reflected(), inlined(_as_model):
            return call(*arguments, **keywords)
    except UnrolledError as error:
        raise UnreadableCallError(str(error)) from error
    except Exception as error:
        names = {part for variable in layer.variables for part in variable.path.split("/")}
        try:
            return _through_tensorflow(call, arguments, keywords, names, error)
        except UnreadableCallError:
            found = _function_by_function(call, arguments, keywords, names)
            if found is None:
                raise
            return found


def _function_by_function(
    call: Callable[..., Any], arguments: Any, keywords: Any, names: Collection[str]
) -> Any:
    """Outputs where only TensorFlow's own functions are read from graphs; None: it cannot be.

    Layers stay what they are: the graph of a dilated convolution or a recurrent layer is long.
    """

    def read(function: Callable[..., Any], given: Any, named: Any) -> Any:
        return _graph_outputs(function, given, named, names)

    try:
        with (
            variable_operators.reflected(),
            inlined(_as_model),
            tensorflow_graphs.read_by(read),
        ):
            outputs = call(*arguments, **keywords)
            return None if _counts_samples((arguments, keywords), outputs) else outputs
    except Exception:
        # Of all reasons, that of the whole graph says most.
        return None


def _counts_samples(given: Any, outputs: Any) -> bool:
    """Whether arrays have a row a sample, of which there are as many as graphs are read with."""
    tensors = [leaf for leaf in keras.tree.flatten(outputs) if is_symbol(leaf)]
    calls = trace(keras.Model(symbols(given), tensors)).calls
    read = keras.tree.flatten([(call.arguments, call.keywords) for call in calls])
    return any(tensorflow_graphs.BATCH in np.shape(leaf) for leaf in read if not is_symbol(leaf))


def _as_model(layer: keras.Layer, *arguments: Any, **keywords: Any) -> Any:
    """Outputs of a layer's `call`, its tensors from a model that stands for the layer."""
    read = list(dict.fromkeys(symbols((arguments, keywords))))
    inputs = {symbol: keras.Input(batch_shape=symbol.shape, dtype=symbol.dtype) for symbol in read}
    arguments, keywords = _with_inputs((arguments, keywords), inputs)
    outputs = called(layer, *arguments, **keywords)
    leaves = keras.tree.flatten(outputs)
    tensors = [leaf for leaf in leaves if is_symbol(leaf)]
    model = functional(list(inputs.values()), tensors, layer)
    made = iter(keras.tree.flatten(model(read)))
    filled = [next(made) if is_symbol(leaf) else leaf for leaf in leaves]
    return keras.tree.pack_sequence_as(outputs, filled)


def _with_inputs(given: Any, inputs: Mapping[Symbol, Symbol]) -> Any:
    """Arguments of a call with other tensors in the place of its own."""
    return keras.tree.map_structure(lambda leaf: inputs[leaf] if is_symbol(leaf) else leaf, given)


def _through_tensorflow(
    call: Callable[..., Any],
    arguments: Any,
    keywords: Any,
    names: Collection[str],
    refusal: Exception,
) -> Any:
    """Outputs of what takes no symbolic tensors, from its TensorFlow graph."""
    try:
        return _graph_outputs(call, arguments, keywords, names)
    except tensorflow_graphs.UnreadableGraphError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    first, second = _in_line(f"{type(refusal).__name__}: {refusal}"), _in_line(reason)
    # That TensorFlow takes no symbolic tensors is why its graph was read.
    said = second if "A KerasTensor cannot be used" in first else f"{first}; traced: {second}"
    raise UnreadableCallError(said) from refusal


def _graph_outputs(
    call: Callable[..., Any], arguments: Any, keywords: Any, names: Collection[str]
) -> Any:
    leaves = keras.tree.flatten((arguments, keywords))
    given = [leaf for leaf in leaves if is_symbol(leaf)]

    def function(*tensors: Any) -> Any:
        waiting = iter(tensors)
        filled = [next(waiting) if is_symbol(leaf) else leaf for leaf in leaves]
        positional, named = keras.tree.pack_sequence_as((arguments, keywords), filled)
        return call(*positional, **named)

    return tensorflow_graphs.read(function, given, names)


def _in_line(message: str) -> str:
    return " ".join(message.split())[:200]


def functional(inputs: Any, outputs: Any, layer: keras.Layer) -> keras.Model:
    """A functional model of tensors that the `call` of a layer gave, named after the layer.

    Raises:
        UnreadableCallError: an output is no tensor of the graph.
    """
    for leaf in keras.tree.flatten(outputs):
        if not is_symbol(leaf):
            raise UnreadableCallError(f"it returns {type(leaf).__name__}, which no input reaches")
    model = keras.Model(inputs, outputs, name=layer.name)
    # A functional model whose `call` was overridden has operations of the user's making.
    old = {id(operation) for operation in getattr(layer, "operations", ())}
    name_operations(model, layer.name, old)
    return model
