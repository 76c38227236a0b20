"""`prepare`: trace, decompose, fold, rebuild."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

import keras
import numpy as np

from tfeptq.config import QuantizationConfig
from tfeptq.preparation import layers, operations
from tfeptq.preparation.affine import fold_affine
from tfeptq.preparation.calls import (
    averages_what_is_seen,
    bound_layer_call,
    bound_operation_call,
    bound_step_call,
)
from tfeptq.preparation.constants import batched_constant, computed, refuse_constant_outputs
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.expansion import inside
from tfeptq.preparation.finite import check_constants, check_folded, check_weights
from tfeptq.preparation.kernels import choose_kernels
from tfeptq.preparation.long_joins import split_long_joins
from tfeptq.preparation.nodes import Constant, Graph, Input, Node, Place, Shape
from tfeptq.preparation.operations.axes import batch_axis, refuse_moved
from tfeptq.preparation.rebuild import rebuild
from tfeptq.preparation.reshapes import sink_reshapes
from tfeptq.preparation.row_numbers import refuse_values
from tfeptq.preparation.steps import Step
from tfeptq.preparation.tables import merge_tables
from tfeptq.preparation.token_functions import fill_tables
from tfeptq.preparation.trace import (
    Symbol,
    Trace,
    TracedCall,
    TracedInput,
    shows_its_graph,
    symbols,
    trace,
)
from tfeptq.preparation.unchosen import lift_masks
from tfeptq.preparation.unseen import bound_masks
from tfeptq.preparation.weighted import Shared
from tfeptq.preparation.zero_paddings import merge_zero_paddings


def prepare(model: keras.Model, config: QuantizationConfig | None = None) -> keras.Model:
    """A canonical model with the outputs of `model.predict` to float32 precision.

    It holds only Conv2D, DepthwiseConv2D and Dense layers (with bias, without activation), single
    activation layers, merges of two tensors, Concatenate, poolings, layers that move data, and
    `Constant` layers where a merge reads an array that nothing can fold.
    Batch normalization and other constants are folded; inference no-operations are gone. Layers
    with weights keep their names. `model` is left untouched.

    Args:
        model: functional or Sequential, built (`as_functional` makes one of a subclassed model);
            nested models and layers made of layers are flattened.
        config: the request, whose target and types decide on the kernels of functions of one
            number; None: for no target in particular.

    Raises:
        ValueError: the model is not built or not functional, or holds infinite or NaN weights.
        UnsupportedLayerError: a layer that cannot be placed, with the nearest supported way.

    Example:
        >>> [layer.name for layer in tfeptq.prepare(model).layers]
        ['features', 'first', 'first_relu', 'middle', 'middle_relu', 'last']
    """
    graph, _ = graph_of(model, trace(model))
    return canonical_model(graph, config)


def graph_of(model: keras.Model, traced: Trace) -> tuple[Graph, dict[Symbol, Node]]:
    """The primitives of a model before any fold, and the node of each tensor of its trace."""
    check_weights(model)
    inputs = [Node(Input, given.name, [], _static(given), is_own=True) for given in traced.inputs]
    values = _translate(traced, inputs, {}, "")
    outputs = [values[symbol] for symbol in traced.outputs]
    for node in outputs:
        if axis := batch_axis(node):
            raise ValueError(
                f"model {model.name!r}: output {node.name!r} has the batch at axis {axis}; a file "
                "has it in front: transpose the output back"
            )
    fill_tables([*values.values()])
    return Graph(model.name, inputs, outputs, traced.structure), values


def canonical_model(graph: Graph, config: QuantizationConfig | None = None) -> keras.Model:
    """Folds what is exact to fold, and builds the Keras model. `graph` is changed."""
    refuse_constant_outputs(graph)
    bound_masks(graph)
    lift_masks(graph)
    check_constants(graph)
    if config is not None:
        choose_kernels(graph, config)
        split_long_joins(graph, config.target)
    merge_tables(graph)
    sink_reshapes(graph)
    fold_affine(graph)
    sink_reshapes(graph)
    merge_zero_paddings(graph)
    refuse_values(graph)
    check_folded(graph)
    return rebuild(graph)


def _static(given: TracedInput) -> Shape:
    sizes = tuple(size for size in given.shape if size is not None)
    where = f"input {given.name!r} has shape {(None, *given.shape)}"
    if len(sizes) < len(given.shape):
        raise ValueError(
            f"{where}; a file needs fixed sizes: give input_shape= (of the configuration) the "
            "size you deploy"
        )
    if not sizes:
        raise ValueError(f"{where}: one number a sample; give it an axis, as Input((1,)) does")
    if 0 in sizes:
        raise ValueError(f"{where}, which holds no values; rebuild the model without it")
    if given.is_sparse or not _is_real(given.dtype):
        kind = "a sparse tensor" if given.is_sparse else f"of type {given.dtype}"
        raise ValueError(
            f"input {given.name!r} is {kind}; a file takes dense tensors of real numbers: convert "
            "it before the model"
        )
    return sizes


def _is_real(dtype: str) -> bool:
    backend = keras.backend
    return dtype == "bool" or backend.is_float_dtype(dtype) or backend.is_int_dtype(dtype)


def _translate(
    traced: Trace,
    inputs: Sequence[Node],
    shared: Shared,
    scope: str,
    place: Place | None = None,
) -> dict[Symbol, Node]:
    """Nodes of all tensors of a functional model on the given inputs.

    Args:
        place: where in a step through time it is; None: in none.
    """
    # What a Masking layer tells others is computed beside it, perhaps before.
    layers.refuse_masking([call.operation for call in traced.calls])
    values = {given.symbol: node for given, node in zip(traced.inputs, inputs, strict=True)}
    read = {*traced.outputs, *symbols([(call.arguments, call.keywords) for call in traced.calls])}
    for index, call in enumerate(traced.calls):
        within = None if place is None else (*place, index)
        outputs = _outputs(call, values, shared, scope, within, read)
        values.update(zip(call.outputs, outputs, strict=True))
    return values


def _outputs(
    call: TracedCall,
    values: dict[Symbol, Node],
    shared: Shared,
    scope: str,
    place: Place | None,
    read: Collection[Symbol],
) -> list[Node]:
    operation = call.operation
    sources = [values[symbol] for symbol in symbols((call.arguments, call.keywords))]
    if isinstance(operation, (Step, keras.Layer)):
        refuse_moved(operation, sources)
    if isinstance(operation, Step):
        given = bound_step_call(call, values)
        inner = _translate(operation.trace, given, shared, scope, (operation,))
        return [inner[symbol] for symbol in operation.trace.outputs]
    if isinstance(operation, keras.Model) and shows_its_graph(operation):
        nested = trace(operation)
        given = bound_layer_call(call, values)
        inner = _translate(nested, given, shared, operation.name, place)
        return [inner[symbol] for symbol in nested.outputs]
    if isinstance(operation, keras.Layer):
        layers.refuse_modes(operation)
        # A masked mean is a quotient, which the layer's own call writes.
        if not layers.is_known(operation) or averages_what_is_seen(call):
            return _expanded(call, values, shared, place, read)
        outputs = [layers.translate(operation, bound_layer_call(call, values), shared)]
    else:
        outputs = operations.translate(operation, bound_operation_call(call, values))
        _share(outputs, sources, shared)
    if len(outputs) != len(call.outputs):
        raise UnsupportedLayerError(
            operation, f"has {len(call.outputs)} outputs", "use a layer with one"
        )
    _mark(outputs, sources, scope, operation.name, place)
    if not all(source.kind is Constant for source in sources):
        return outputs
    refuse_moved(operation, outputs)
    return [computed(node) for node in outputs]


def _expanded(
    call: TracedCall,
    values: dict[Symbol, Node],
    shared: Shared,
    place: Place | None,
    read: Collection[Symbol],
) -> list[Node]:
    """The primitives of a layer that no table knows, from its own `call`.

    Args:
        read: tensors around the layer that something reads; of other outputs any constant will do.
    """
    operation = call.operation
    try:
        found = inside(call, lambda symbol: values[symbol].shape)
        tensors: Iterator[Node] = iter(())
        if found.model is not None:
            nested = trace(found.model)
            given = [values[symbol] for symbol in found.inputs]
            inner = _translate(nested, given, shared, operation.name, place)
            tensors = iter([inner[symbol] for symbol in nested.outputs])
    except UnsupportedLayerError as error:
        raise layers.refusal(operation, error) from error
    constants = [
        batched_constant(operation, value if symbol in read else np.zeros(1))
        for symbol, value in zip(call.outputs, found.outputs, strict=True)
        if value is not None
    ]
    waiting = iter(constants)
    return [next(tensors) if value is None else next(waiting) for value in found.outputs]


def _share(outputs: Sequence[Node], sources: Sequence[Node], shared: Shared) -> None:
    """Gives operations with equal weights the same ones: a variable that is read many times."""
    for node in _made(outputs, sources):
        if node.weights is not None:
            key = (node.kind, str(node.options), _digest(node.weights.arrays))
            node.weights = shared.setdefault(key, node.weights)


def _digest(arrays: Sequence[np.ndarray]) -> bytes:
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.shape} {array.dtype}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.digest()


def _mark(
    outputs: Sequence[Node],
    sources: Sequence[Node],
    scope: str,
    name: str,
    place: Place | None,
) -> None:
    """Tells the nodes of one call which nested model and step it is in, and which is its own."""
    for node in _made(outputs, sources):
        node.scope, node.is_own = scope, node.name == name
        node.place = None if place is None else (*place, node.name)


def _made(outputs: Sequence[Node], sources: Sequence[Node]) -> Iterator[Node]:
    """The nodes of one call."""
    waiting, seen = list(outputs), set(sources)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(node.inputs)
