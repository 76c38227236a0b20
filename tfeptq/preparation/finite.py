"""Refusal of weights and constants that are infinite or no numbers, before anything computes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfeptq.preparation.nodes import Graph, Node

_ADVICE = "train again with a lower learning rate, or load a checkpoint from before it diverged"


def check_weights(model: keras.Model) -> None:
    """Refuses a model with infinite or NaN variables.

    Raises:
        ValueError: names the layer, the variable and the first position.
    """
    for variable in model.variables:
        values = keras.ops.convert_to_numpy(variable)
        if keras.backend.is_float_dtype(variable.dtype) and not _is_finite(values):
            layer, _, name = variable.path.rpartition("/")
            raise ValueError(f"layer {layer!r}: its {name} {_described(values)}; {_ADVICE}")


def check_constants(graph: Graph) -> None:
    """Refuses a graph with infinite or NaN constants: no variable holds those of `keras.ops` calls.

    Raises:
        ValueError: names the layer.
    """
    for node in graph.nodes():
        for values in _constants(node):
            if not _is_finite(values):
                raise ValueError(
                    f"layer {node.name!r}: a constant of it {_described(np.asarray(values))}; "
                    "check what it is made from, for example a variance of 0 that is divided by"
                )


def check_folded(graph: Graph) -> None:
    """Refuses weights that folding took out of float32's range.

    Raises:
        ValueError: names the layer.
    """
    for node in graph.nodes():
        for values in node.weights.arrays if node.weights is not None else ():
            with np.errstate(over="ignore"):
                folded = values.astype(np.float32)
            if not _is_finite(folded):
                raise ValueError(
                    f"layer {node.name!r}: with the normalization and the constants around it "
                    f"folded in, its weights reach {np.abs(values).max():.3g}, float32 ends at "
                    "3.4e38; check these constants, and variances near 0"
                )


def _constants(node: Node) -> list[Any]:
    arrays = list(node.weights.arrays) if node.weights is not None else []
    return [*arrays, *(v for v in node.options.values() if isinstance(v, (float, np.ndarray)))]


def _is_finite(values: Any) -> bool:
    return bool(np.all(np.isfinite(values)))


def _described(values: np.ndarray) -> str:
    wrong = ~np.isfinite(values)
    if values.ndim == 0:
        return f"is {values}"
    first = tuple(int(index) for index in np.argwhere(wrong)[0])
    return f"has {int(wrong.sum())} infinite or NaN values of {values.size}, the first at {first}"
