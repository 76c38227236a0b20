"""Layers that are made while a graph is read, named after the scopes of its operators."""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.names import legal_name, unique_name

#: Layers of operators outside of any scope: whoever reads the graph names them.
NAMELESS: weakref.WeakSet[keras.Layer] = weakref.WeakSet()
#: Scopes that TensorFlow and Keras open within one layer.
_INNER = ("Tensordot", "StatefulPartitionedCall", "PartitionedCall")


class Scope:
    """Makes each layer once for each set of weights.

    Args:
        known: names of layers that scopes may be called after; TensorFlow numbers scopes that are
            entered again.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = frozenset(known)
        self._layers: dict[tuple[str, ...], keras.Layer] = {}
        self._names: set[str] = set()
        self._multiples: dict[int, tuple[Any, Any, float]] = {}

    def note_multiple(self, product: Any, tensor: Any, factor: float) -> None:
        """Remembers that one tensor is a number times another."""
        base, before = self.multiple_of(tensor)
        self._multiples[id(product)] = (product, base, before * factor)

    def multiple_of(self, tensor: Any) -> tuple[Any, float]:
        """A tensor and a number whose product the given one is: at least itself and 1."""
        found = self._multiples.get(id(tensor))
        return (tensor, 1.0) if found is None else found[1:]

    def call(
        self,
        operation: tf.Operation,
        make: Callable[[str], keras.Layer],
        tensor: Any,
        weights: Sequence[np.ndarray] = (),
        settings: Any = None,
    ) -> Any:
        """The output of a layer with these weights.

        Args:
            make: the layer by its name, with as many weights, which are set.
            settings: by which layers of equal weights differ.
        """
        digests = (hashlib.sha256(array.tobytes()).hexdigest() for array in weights)
        key = (operation.type, str(settings), *digests)
        if not weights or key not in self._layers:
            layer = make(self._name(operation))
            layer.build((None, *tensor.shape[1:]))
            layer.set_weights(list(weights))
            self._layers[key] = layer
            if not _scopes(operation):
                NAMELESS.add(layer)
        return self._layers[key](tensor)

    def _name(self, operation: tf.Operation) -> str:
        """Of the layer that the operator is a part of: its innermost scope."""
        scopes = _scopes(operation)
        numbered = [re.sub(r"_\d+$", "", part) for part in scopes]
        own = [part for part in (*numbered, *scopes) if part in self._known]
        name = own[-1] if own else scopes[-1] if scopes else operation.type
        return unique_name(legal_name(name), self._names)


def _scopes(operation: tf.Operation) -> list[str]:
    return [part for part in operation.name.split("/")[:-1] if part not in _INNER]
