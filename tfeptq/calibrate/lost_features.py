"""Features of a model input that one scale for all of them leaves without codes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.model import QuantizedModel
from tfeptq.quantized.quantizers import ActivationQuantizer

#: Codes that a feature's whole range must have, or its values are lost.
_LEAST_CODES = 4.0


def warn_of_lost_features(quantized: QuantizedModel, samples: Sequence[np.ndarray]) -> None:
    """Looks at all model inputs; a sentence for each is a warning, and in the report.

    Args:
        samples: one array a model input, float32 (N, ...).
    """
    graph = LayerGraph.of(quantized)
    consumers = graph.consumers()
    for key, values in zip(graph.inputs, samples, strict=True):
        for call in consumers.get(key, ()):
            if isinstance(call.layer, ActivationQuantizer):
                sentence = lost_features(key[0], values, call.layer)
                if sentence is not None:
                    quantized.report.add_warnings([sentence])
                    warnings.warn(sentence, stacklevel=5)


def lost_features(name: str, values: np.ndarray, quantizer: ActivationQuantizer) -> str | None:
    """What to tell the user where features (the last axis) vary by less than a few codes, or None.

    Args:
        name: of the input.
        values: calibration samples, (N, ..., features).
    """
    if values.ndim != 2:
        return None
    low, high = values.min(axis=0), values.max(axis=0)
    scale = float(quantizer.parameters()[0])
    spread = (high - low).astype(np.float64)
    lost = np.flatnonzero((spread > 0.0) & (spread < _LEAST_CODES * scale))
    if not lost.size:
        return None
    some = ", ".join(map(str, lost[:5])) + (", ..." if lost.size > 5 else "")
    largest = int(np.abs(values).max(axis=0).argmax())
    enough = spread[lost].min() >= _LEAST_CODES * scale * 2.0**8
    wider = (
        f" 16 bits have codes for them: activation_bits={{{name!r}: 16}}, and the same for the "
        "first layers that read it;"
        if quantizer.bits < 16 and enough
        else ""
    )
    return (
        f"input {name!r}: an integer tensor has one scale for all features, here {scale:.3g} for "
        f"feature {largest}, so that the whole ranges of features {some} are below "
        f"{_LEAST_CODES:g} steps and their values are lost;{wider} normalize the features before "
        "the model, or give each group of like units an input of its own"
    )
