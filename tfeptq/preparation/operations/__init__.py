"""Calls of `keras.ops` (and Python operators) in functional models as primitives."""

from __future__ import annotations

from typing import Any

from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.nodes import ConstantError, Node
from tfeptq.preparation.operations import (
    arithmetic,
    attention,
    axes,
    comparisons,
    contraction,
    functions,
    linear,
    normalization,
    pooling,
    reductions,
    repetition,
    shapes,
)
from tfeptq.preparation.operations.arguments import settings

_HANDLERS = {
    **arithmetic.HANDLERS,
    **attention.HANDLERS,
    **comparisons.HANDLERS,
    **contraction.HANDLERS,
    **functions.HANDLERS,
    **linear.HANDLERS,
    **normalization.HANDLERS,
    **pooling.HANDLERS,
    **reductions.HANDLERS,
    **repetition.HANDLERS,
    **shapes.HANDLERS,
}
#: Those that read tensors with the batch at any axis.
_OF_ANY_BATCH = {**axes.HANDLERS, **axes.aware(_HANDLERS)}
_HANDLERS |= _OF_ANY_BATCH

_NEAREST = {
    "Argmin": "return the scores, and look for the smallest outside of the file",
    "Median": "use keras.ops.mean",
    "TopK": "return the scores, and take the largest outside of the file; keras.ops.argmax gives "
    "the first of them",
}


#: Names of the classes that are supported.
SUPPORTED = frozenset(_HANDLERS)


def translate(operation: Any, arguments: tuple[Any, ...]) -> list[Node]:
    """The primitives of one call: a node for each of its outputs.

    Args:
        operation: names the call; its class says what it computes.
        arguments: of the call, in the order of its parameters, with nodes in the place of tensors.

    Raises:
        UnsupportedLayerError: names the operation and the nearest supported way.
    """
    handler = _HANDLERS.get(type(operation).__name__)
    if handler is None or type(operation).__module__.partition(".")[0] != "keras":
        raise UnsupportedLayerError(
            operation,
            "is not supported",
            _NEAREST.get(type(operation).__name__, "replace it with supported layers"),
        )
    if type(operation).__name__ not in _OF_ANY_BATCH:
        axes.refuse_moved(operation, arguments)
    try:
        outputs = handler(operation, settings(operation), arguments)
    except ConstantError as error:
        raise UnsupportedLayerError(
            operation, str(error), "give constants that all samples share"
        ) from error
    return outputs if isinstance(outputs, list) else [outputs]
