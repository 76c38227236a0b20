"""Ranges for tensors that are zero in all calibration samples, taken from their neighbours.

A state input that starts at zero, or a ReLU that never fires, says nothing about its scale. What
its kernel could make of its inputs does, and so does what its readers make of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.primitives import Magnitude, Output, find_primitive

#: Largest magnitudes by tensor.
Magnitudes = Mapping[Key, float]


class Neighbours:
    """Plausible magnitudes of the tensors of a canonical model.

    Args:
        magnitudes: largest magnitude of tensors on the calibration samples; others may be missing.
    """

    def __init__(self, graph: LayerGraph, magnitudes: Magnitudes) -> None:
        self._magnitudes = magnitudes
        self._producers = {call.output: call for call in graph.calls}
        self._consumers = graph.consumers()
        self._sizes: dict[Key, float] = {}
        for key in graph.inputs:
            self._sizes[key] = magnitudes.get(key, 0.0) or self._of_readers(key)
        for call in graph.calls:
            self._sizes[call.output] = magnitudes.get(call.output, 0.0) or self._made(call)

    def range(self, keys: Sequence[Key]) -> tuple[float, float]:
        """Of a quantizer whose tensors are all zero."""
        size = max(self.magnitude(key) for key in keys) or 1.0
        return (0.0 if all(self._is_positive(key) for key in keys) else -size), size

    def magnitude(self, key: Key) -> float:
        """Largest magnitude that a tensor may have; 0 where nothing tells."""
        return self._sizes.get(key, 0.0)

    def _made(self, call: Call) -> float:
        if not call.inputs:
            return self._of_readers(call.output)
        sizes = [self._sizes[key] for key in call.inputs]
        layer = call.layer
        row = find_primitive(layer)
        if row is not None and row.magnitude in (Magnitude.PRODUCT, Magnitude.DOT_PRODUCT):
            return float(np.prod(sizes))
        if linear.is_weighted(layer):
            return _reached(layer, sizes[0]) or sizes[0]
        cap = getattr(layer, "max_value", None)
        return min(max(sizes), float(cap)) if cap is not None else max(sizes)

    def _of_readers(self, key: Key) -> float:
        """What the first reader of a model input that knows more says."""
        for call in self._consumers.get(key, ()):
            made = self._magnitudes.get(call.output, 0.0)
            if linear.is_weighted(call.layer):
                gain = _reached(call.layer, 1.0) - _bias(call.layer)
                found = made / gain if gain > 0.0 else made
            else:
                others = [self._magnitudes.get(k, 0.0) for k in call.inputs if k != key]
                found = max([made, *others])
            if found > 0.0:
                return found
        return 0.0

    def _is_positive(self, key: Key) -> bool:
        call = self._producers.get(key)
        row = find_primitive(call.layer) if call is not None else None
        return row is not None and row.output is Output.CUT


def _reached(layer: keras.Layer, size: float) -> float:
    """Largest sum of a weighted layer on inputs of a magnitude."""
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(np.float64)
    sums = np.abs(linear.by_channel(layer, kernel)).sum(axis=1) * size
    return float((sums + np.abs(keras.ops.convert_to_numpy(layer.bias))).max())


def _bias(layer: keras.Layer) -> float:
    return float(np.abs(keras.ops.convert_to_numpy(layer.bias)).max())
