"""Names of the operations that reading a `call` makes."""

from __future__ import annotations

import collections

import keras

from tfeptq.preparation.tensorflow_graphs import NAMELESS

#: Operations that take their weights as an argument.
_WEIGHTED = ("Conv", "ConvTranspose", "DepthwiseConv", "Dot", "Einsum", "Matmul", "SeparableConv")


def name_operations(model: keras.Model, name: str, old: set[int] | None = None) -> None:
    """Names the operations that a `call` has just made after its layer and their kind.

    Keras counts them through the process, and the same layer read twice would have other names.
    The only operation of a layer, and the only one with weights of a layer without sub-layers, has
    the layer's own name, by which its width is asked for.

    Args:
        name: of the layer.
        old: identities of operations that have names already.
    """
    parts = [
        operation
        for operation in model.operations
        if id(operation) not in (old or ()) and not isinstance(operation, keras.layers.InputLayer)
    ]
    named = [part for part in parts if isinstance(part, keras.Layer) and part not in NAMELESS]
    weighted = [part for part in parts if type(part).__name__ in _WEIGHTED or _is_weighted(part)]
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
        if part in named:
            continue
        kind = type(part).__name__.lower()
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        is_whole = [part] in (parts, weighted) and not named
        part.name = name if is_whole else f"{name}_{kind}{number}"


def _is_weighted(part: keras.Operation) -> bool:
    return isinstance(part, keras.Layer) and bool(part.weights)
