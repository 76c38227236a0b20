"""Features of a model input that one scale for all of them leaves without codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfeptq.canonical.layer_graph import Key
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.quantizers import asymmetric_parameters

#: Codes that a feature's whole range must have, or its values are lost.
_LEAST_CODES = 4.0


def warn_of_lost_features(
    plan: QuantizationPlan, model: keras.Model, samples: Sequence[np.ndarray]
) -> list[str]:
    """Warns of inputs some of whose features vary by less than a few codes; returns the sentences.

    Needs nothing but the samples, so that they come before any work. A feature is an index of the
    last axis: of a vector, a sequence or a picture.

    Args:
        model: the original, in which a layer may normalize features.
        samples: one array (N, ...) a model input, float32.
    """
    readers = plan.graph.consumers()
    normalizing = _normalizing(model)
    found = [
        _lost(plan, key, values, normalizing)
        for key, values in zip(plan.graph.inputs, samples, strict=True)
        # Numbers of rows are no quantities.
        if key in readers and not plan.topology.is_index(key)
    ]
    sentences = [sentence for sentence in found if sentence is not None]
    for sentence in sentences:
        warnings.warn(sentence, stacklevel=5)
    return sentences


def _lost(
    plan: QuantizationPlan, key: Key, values: np.ndarray, normalizing: Sequence[str]
) -> str | None:
    if values.ndim < 2:
        return None
    name, bits = key[0], _widest(plan, key)
    low, high = (_by_feature(values, extreme) for extreme in (np.min, np.max))
    ends = float(low.min()), float(high.max())
    scale = _scale(plan, key, ends, bits)
    spread = high - low
    lost = np.flatnonzero((spread > 0.0) & (spread < _LEAST_CODES * scale))
    if not lost.size:
        return None
    some = ", ".join(map(str, lost[:5])) + (", ..." if lost.size > 5 else "")
    largest = int(np.maximum(np.abs(low), np.abs(high)).argmax())
    enough = spread[lost].min() >= _LEAST_CODES * _scale(plan, key, ends, 16)
    wider = (
        f" 16 bits have codes for them: activation_bits={{{name!r}: 16}}, and the same for the "
        "first layers that read it;"
        if bits < 16 and enough
        else ""
    )
    outside = f", as layer {normalizing[0]!r} does inside of it" if normalizing else ""
    return (
        f"input {name!r}: an integer tensor has one scale for all features, here {scale:.3g} for "
        f"feature {largest}, so that the whole ranges of features {some} are below "
        f"{_LEAST_CODES:g} steps and their values are lost;{wider} normalize the features before "
        f"the model{outside}, or give each group of like units an input of its own"
    )


def _by_feature(values: np.ndarray, extreme: Callable[..., np.ndarray]) -> np.ndarray:
    """The least or largest value of each feature, float64."""
    # Over samples first: NumPy is slow along short rows, and features are often few.
    by_place = extreme(values, axis=0)
    return extreme(by_place.reshape(-1, values.shape[-1]), axis=0).astype(np.float64)


def _widest(plan: QuantizationPlan, key: Key) -> int:
    """Width of an input, or the largest that may be chosen for it."""
    return max((plan.activation_bits[key[0]], *plan.groups[plan.group_of(key)].widths))


def _scale(plan: QuantizationPlan, key: Key, ends: tuple[float, float], bits: int) -> float:
    """The one that holds all samples, unless the input has a fixed range."""
    fixed = plan.fixed_parameters(plan.tensors[key].quantizer, bits)
    if fixed is not None:
        return fixed[0]
    return float(asymmetric_parameters(*ends, bits=bits)[0])


def _normalizing(model: keras.Model) -> list[str]:
    """Layers that normalize an input of the model."""
    kinds = (keras.layers.Normalization, keras.layers.BatchNormalization)
    inputs = {id(tensor) for tensor in model.inputs}
    return [
        layer.name
        for layer in model.layers
        if isinstance(layer, kinds)
        and any(id(t) in inputs for t in keras.tree.flatten(layer.input))
    ]
