"""Where sigmoid and tanh are flat: their inputs need no codes beyond."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.primitives import find_primitive
from tfeptq.freeze.kernel_calls import kernel_calls, quantizer_of
from tfeptq.quantized.quantizers import ActivationQuantizer


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
    row = find_primitive(layer)
    return row.flat_beyond.get(source.container, float("inf")) if row else float("inf")
