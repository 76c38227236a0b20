"""Tables of 513 nodes, between which 16-bit kernels interpolate a function of a whole int16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tflite_export.graph.fixed_point import round_half_away

Function = Callable[[np.ndarray], np.ndarray]

_SEGMENTS = 512
#: Low bits of an int16 that lie between two nodes.
_BETWEEN_BITS = 7


def table(function: Function, *, start: float, stop: float, unit: float = 2.0**-15) -> np.ndarray:
    """int16 table (513,) of a function on [start, stop], in steps of `unit`."""
    step = (stop - start) / _SEGMENTS
    begins = start + np.arange(_SEGMENTS) * step
    begin, middle, end = (function(begins + part * step) / unit for part in (0.0, 0.5, 1.0))
    rounded = round_half_away(begin)
    error = round_half_away((end + rounded) / 2) - round_half_away(middle)
    # Half of the error in the middle of a segment goes to its node.
    inner = rounded - round_half_away(error / 2)
    last = round_half_away(function(np.array([stop])) / unit)
    return np.clip(np.concatenate([inner, last]), -(2**15), 2**15 - 1)


def look_up(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A table of `table` at int16 values, of which the lowest is `start` and the highest `stop`."""
    index = (values >> _BETWEEN_BITS) + _SEGMENTS // 2
    between = values & (2**_BETWEEN_BITS - 1)
    slope = nodes[index + 1] - nodes[index]
    half = 2 ** (_BETWEEN_BITS - 1)
    return nodes[index] + ((slope * between + half) >> _BETWEEN_BITS)
