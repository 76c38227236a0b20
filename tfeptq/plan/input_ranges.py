"""Input scales that the user fixes: pixels from 0 to 255 get scale 1, whatever is calibrated.

A learned scale gives up rare values at the ends of a range, and is another in every run. A fixed
one holds both ends of the range, is the same in every file and is never learned.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfeptq.canonical.integer_types import activation_range
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.plan.layer_names import refuse_unknown
from tflite_export.graph.limits import HIGHEST_SCALE, LOWEST_SCALE

Range = tuple[float, float]
#: Samples that fill less of a fixed range than this have probably another unit.
_LEAST_SHARE = 1 / 16


def input_ranges(model: keras.Model, asked: Range | Mapping[str, Range] | None) -> dict[str, Range]:
    """Input name -> its fixed range, of those inputs of a canonical model that have one.

    Raises:
        ValueError: a name that no input has.
    """
    if asked is None:
        return {}
    names = [name for name, _ in LayerGraph.of(model).inputs]
    if not isinstance(asked, Mapping):
        return dict.fromkeys(names, asked)
    refuse_unknown("input_range", asked, names, "inputs")
    return dict(asked)


def fixed_by_range(bounds: Range, bits: int) -> tuple[float, int]:
    """The finest scale, and its zero point, that hold both bounds and zero without clipping.

    At 8 bits (0, 255) gives scale 1 and zero point -128.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    first, last = activation_range(bits)
    if not LOWEST_SCALE <= (high - low) / (last - first) <= HIGHEST_SCALE:
        raise ValueError(
            f"input_range ({bounds[0]:g}, {bounds[1]:g}) has steps that kernels do not compute "
            f"with: they go from {LOWEST_SCALE:.3g} to {HIGHEST_SCALE:.3g}; give another unit"
        )
    if bits == 16:
        return _float32(max(-low, high) / last), 0
    zero = first - low * (last - first) / (high - low)
    choices = [_holding(low, high, point, bits) for point in (math.floor(zero), math.ceil(zero))]
    return min(choices)


def _holding(low: float, high: float, zero_point: int, bits: int) -> tuple[float, int]:
    first, last = activation_range(bits)
    below = -low / (zero_point - first) if zero_point > first else (math.inf if low < 0 else 0.0)
    above = high / (last - zero_point) if zero_point < last else (math.inf if high > 0 else 0.0)
    return _float32(max(below, above)), zero_point


def _float32(scale: float) -> float:
    """What a file holds."""
    return float(np.float32(scale))


def doubts(
    model: keras.Model, samples: Sequence[np.ndarray], ranges: Mapping[str, Range]
) -> list[str]:
    """Warns of calibration samples that are odd under fixed ranges; returns the sentences.

    Args:
        samples: one array a model input, (N, ...).
        ranges: input name -> fixed range.
    """
    sentences = []
    for (name, _), array in zip(LayerGraph.of(model).inputs, samples, strict=True):
        problem = _problem(ranges[name], array) if name in ranges else None
        if problem is not None:
            sentences.append(f"input {name!r}: {problem}")
            warnings.warn(sentences[-1], stacklevel=5)
    return sentences


def _problem(bounds: Range, samples: np.ndarray) -> str | None:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    smallest, largest = float(samples.min()), float(samples.max())
    found = f"calibration samples reach from {smallest:g} to {largest:g}"
    asked = f"input_range ({bounds[0]:g}, {bounds[1]:g})"
    step = (high - low) / 255
    if smallest < low - step / 2 or largest > high + step / 2:
        return f"{found}, beyond {asked}: the file cuts them there"
    if largest - smallest < _LEAST_SHARE * (high - low):
        return f"{found}, a small part of {asked}: are both in one unit?"
    return None
