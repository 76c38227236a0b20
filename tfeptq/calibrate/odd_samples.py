"""Calibration samples that are hardly what was meant, as the model's layers or the others tell."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tfeptq.preparation.trace import Symbol, Trace, shows_its_graph, symbols, trace

#: What a layer that rescales or normalizes leaves of samples' range or deviation lies between
#: 1 / _FACTOR and _FACTOR; pixels from 0 to 1 where 0 to 255 were meant are further off.
_FACTOR = 16.0
#: Scales of pixels; larger ones may belong to quantities that do not fill their range.
_OF_PIXELS = 1 / 32
#: How many times what the other samples reach a few of them reach that are hardly like them, and
#: which share of all is few.
_FAR, _FEW = 100.0, 0.01
#: Samples that are enough to tell a unit, and those that are looked at.
_ENOUGH, _LOOKED_AT = 8, 64


def warn_of_odd_samples(
    model: keras.Model, samples: Sequence[np.ndarray], *, are_rows: Sequence[bool]
) -> list[str]:
    """Warns of samples that are all equal, far beyond the others, or in another unit than expected.

    Args:
        model: the original, functional. Layers that rescale or normalize tell what was meant,
            where nothing but random copies and the like stands between them and an input.
        samples: one array (N, ...) a model input, float32.
        are_rows: of each input, whether it numbers rows of a table, which have no scale.

    Returns:
        The sentences.
    """
    count = len(samples[0])
    if count > 1 and all(map(_is_repeated, samples)):
        found = [f"all {count} calibration samples are equal: were they loaded?"]
    else:
        traced = trace(model)
        names = {given.symbol: given.name for given in traced.inputs}
        given = dict(zip(names, samples, strict=True))
        known = {symbol: symbol for symbol in names}
        found = [
            f"input {names[source]!r}: {problem}"
            for (source, array), is_row in zip(given.items(), are_rows, strict=True)
            if not is_row and (problem := _far_beyond(array)) is not None
        ]
        found += [
            f"input {names[source]!r}: {problem}"
            for source, layer in _readers(traced, known)
            if (problem := _problem(layer, given[source][:_LOOKED_AT])) is not None
        ]
    for sentence in found:
        warnings.warn(sentence, stacklevel=5)
    return found


def _far_beyond(samples: np.ndarray) -> str | None:
    """What is said of a few samples whose values take the codes of all others."""
    if len(samples) < _ENOUGH or samples[0].size == 0:
        return None
    reached = np.sort([max(sample.max(), -sample.min()) for sample in samples]).astype(np.float64)
    others = reached[: -max(1, int(len(samples) * _FEW))]
    far = int(np.sum(reached > _FAR * others[-1]))
    if far == 0 or others[-1] == 0.0:
        return None
    return (
        f"{far} of {len(samples)} calibration samples reach {reached[-1]:.3g}, the others "
        f"{others[-1]:.3g} at most: one scale for all leaves those few codes; leave broken samples "
        "out, or give rare large values activation_bits=16"
    )


def _is_repeated(array: np.ndarray) -> bool:
    # One after the other: of samples that differ the first two tell, without a copy of them all.
    return all(np.array_equal(sample, array[0]) for sample in array[1:])


def _readers(
    traced: Trace, known: dict[Symbol, Symbol]
) -> Iterator[tuple[Symbol, keras.Operation]]:
    """Layers that read an input of the model as it is given, and which.

    Args:
        known: tensor -> the input whose values it has; what only passes them on is added.
    """
    for call in traced.calls:
        read = symbols((call.arguments, call.keywords))
        if len(read) != 1 or read[0] not in known:
            continue
        operation, source = call.operation, known[read[0]]
        if isinstance(operation, keras.Model) and shows_its_graph(operation):
            nested = trace(operation)
            inner = {given.symbol: source for given in nested.inputs}
            yield from _readers(nested, inner)
            if all(symbol in inner for symbol in nested.outputs):
                known.update(dict.fromkeys(call.outputs, source))
        elif _passes_on(operation):
            known.update(dict.fromkeys(call.outputs, source))
        else:
            yield source, operation


def _passes_on(operation: keras.Operation) -> bool:
    """Whether a layer changes no value when a model predicts."""
    name = type(operation).__name__
    return name in ("Dropout", "GaussianNoise", "Identity") or name.startswith("Random")


def _problem(operation: keras.Operation, samples: np.ndarray) -> str | None:
    if samples.size == 0:
        return None
    if isinstance(operation, keras.layers.Rescaling):
        return _rescaled(operation, samples)
    if isinstance(operation, keras.layers.Normalization) and len(samples) >= _ENOUGH:
        return _normalized(operation, samples)
    return None


def _rescaled(layer: keras.layers.Rescaling, samples: np.ndarray) -> str | None:
    scale = float(np.abs(np.asarray(layer.scale, np.float64)).max())
    low, high = float(samples.min()), float(samples.max())
    left = (high - low) * scale
    if not 0.0 < scale <= _OF_PIXELS or 1 / _FACTOR <= left <= _FACTOR:
        return None
    return (
        f"calibration samples reach from {low:g} to {high:g}, of which layer {layer.name!r}, that "
        f"multiplies by {scale:.3g}, leaves a range of {left:.3g}: give samples as the model was "
        "trained on, pixels from 0 to 255 for example"
    )


def _normalized(layer: keras.layers.Normalization, samples: np.ndarray) -> str | None:
    if layer.invert or layer.mean is None or layer.variance is None:
        return None
    mean = keras.ops.convert_to_numpy(layer.mean).astype(np.float64)
    deviation = np.sqrt(keras.ops.convert_to_numpy(layer.variance).astype(np.float64))
    shared = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
    varies = deviation > 0.0
    if not varies.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        left = ((samples - mean) / deviation).std(axis=shared or 0, keepdims=True)
    typical = float(np.median(left[np.broadcast_to(varies, left.shape)]))
    if 1 / _FACTOR <= typical <= _FACTOR:
        return None
    return (
        f"calibration samples deviate by {typical:.3g} behind layer {layer.name!r}, which makes "
        "that 1 for the samples that it was adapted to: give samples in the same unit"
    )
