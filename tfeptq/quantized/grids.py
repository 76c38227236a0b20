"""Which tensors of a quantized model lie on a quantizer's grid, and are therefore in the file."""

from __future__ import annotations

import keras

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.plan.topology import cuts_nothing, is_relu, keeps_grid
from tfeptq.quantized.quantizers import ActivationQuantizer


def written_bits(graph: LayerGraph) -> dict[Key, int]:
    """Width of every tensor that lies on a grid; the others are still inside a kernel."""
    written: dict[Key, int] = {}
    for call in graph.calls:
        layer, source = call.layer, call.inputs[0]
        if isinstance(layer, ActivationQuantizer):
            written[call.output] = layer.bits
        elif keeps_grid(layer) or (_is_plain_relu(layer) and source in written):
            written[call.output] = written[source]
    return written


def _is_plain_relu(layer: keras.Layer) -> bool:
    """A ReLU without an upper bound only drops integers."""
    return is_relu(layer) and cuts_nothing(layer)
