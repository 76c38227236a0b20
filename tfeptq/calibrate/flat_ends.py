"""Where sigmoid and tanh are flat: their inputs need no codes beyond."""

from __future__ import annotations

import keras

from tfeptq.canonical.primitives import find_primitive
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.written import Written


def useful_magnitudes(written: Written) -> dict[ActivationQuantizer, float]:
    """Largest magnitudes of quantized tensors that nothing but sigmoids or tanhs read."""
    outputs = written.output_quantizers()
    bounds: dict[ActivationQuantizer, list[float]] = {}
    for kernel in written.computing():
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
