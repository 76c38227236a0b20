"""Where sigmoid and tanh are flat: their inputs need no codes beyond."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.freeze.kernel_calls import kernel_calls, quantizer_of
from tfeptq.quantized.quantizers import ActivationQuantizer

#: Activation function -> largest magnitude that changes its 8-bit or 16-bit result.
_FLAT_BEYOND = {"sigmoid": {"int8": 8.0, "int16": 12.0}, "tanh": {"int8": 4.0, "int16": 8.0}}


def useful_magnitudes(graph: LayerGraph) -> dict[ActivationQuantizer, float]:
    """Largest magnitudes of quantized tensors that nothing but sigmoids or tanhs read."""
    producers = {call.output: call for call in graph.calls}
    outputs = {quantizer_of(key, producers) for key in graph.outputs}
    bounds: dict[ActivationQuantizer, list[float]] = {}
    for kernel in kernel_calls(graph):
        for source in kernel.sources:
            bounds.setdefault(source, []).append(_bound(kernel.layer, source))
    return {
        source: max(found)
        for source, found in bounds.items()
        if source not in outputs and max(found) < float("inf")
    }


def _bound(layer: keras.Layer, source: ActivationQuantizer) -> float:
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    return _FLAT_BEYOND.get(name, {}).get(source.container, float("inf"))
