"""The values of a tensor that are read in the end: what its range is chosen for.

In front of a maximum over all places only extremes are read, and in front of a ReLU nothing below
zero. So it is behind layers that keep the order of numbers: of a LeakyReLU's inputs those count
whose results a maximum takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfeptq.calibrate.histograms import Histogram
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.topology import Topology, chooses, is_relu, joins
from tfeptq.plan.tensors import Quantizer

#: Longest range, in lengths of the one that is read, to which values that were dropped widen it:
#: one bit.
_WIDEST = 2.0


class ReadValues:
    """Histograms of what is read of each tensor.

    Args:
        histograms: of all values of every tensor of the file.
    """

    def __init__(self, topology: Topology, histograms: Mapping[Key, Histogram]) -> None:
        self._topology = topology
        self._all = histograms
        self._known: dict[Key, Histogram] = {}

    def of_quantizer(self, quantizer: Quantizer) -> Histogram:
        """Of all tensors that a quantizer serves.

        What a maximum chooses weighs as much as all that it is chosen from: of a thousand values
        one that is clipped is little, where it is one of the few that another layer reads it is
        much.
        """
        read = Histogram.pooled([self[key] for key in quantizer.sources])
        chosen = [self._all[key].weighing(read) for key in quantizer.chosen]
        return Histogram.pooled([read, *chosen]) if chosen else read

    def __getitem__(self, key: Key) -> Histogram:
        """Of one tensor; see `Topology.seen`."""
        if key not in self._known:
            self._known[key] = self._of(key)
        return self._known[key]

    def _of(self, key: Key) -> Histogram:
        if self._topology.seen(key) == (key,):
            return self._all[key]
        parts = [self._behind(call, key) for call in self._topology.consumers[key]]
        taken = [part for part in parts if part is not None]
        return Histogram.pooled(taken) if taken else self._all[key]

    def _behind(self, call: Call, key: Key) -> Histogram | None:
        """What a call lets through of a tensor, as far as it is read; None: nothing."""
        read, values = self[self._topology.result(call)], self._all[key]
        if self._topology.passes(call):
            return self._with_dropped(call, read, values)
        return values.where_reached(read, lambda numbers: self._written(call, numbers))

    def _written(self, call: Call, numbers: np.ndarray) -> np.ndarray:
        """What the kernel of a call writes for some numbers, the same in all channels."""
        results = numbers if joins(call.layer) else _results(call, numbers)
        relu = self._topology.fused_relu(call)
        return results if relu is None else _results(relu, results)

    def _with_dropped(self, call: Call, read: Histogram, values: Histogram) -> Histogram:
        """With values behind the ends that fell away by their place, not by their size.

        A crop keeps some of the values by chance: those that it drops tell how far others may go
        in samples that were not seen.
        """
        made = self._all[self._topology.result(call)]
        cuts = is_relu(call.layer) or self._topology.fused_relu(call) is not None
        from_below = not (cuts or chooses(call.layer))
        low = values.minimum if from_below and read.minimum == made.minimum else read.minimum
        is_open = not cuts and read.maximum == made.maximum
        high = values.maximum if is_open else read.maximum
        low, high = min(low, read.minimum), max(high, read.maximum)
        length = _length(read.minimum, read.maximum)
        if _length(low, high) in (length, 0.0) or _length(low, high) > _WIDEST * length:
            return read
        return Histogram.pooled([read, *values.beyond(read.minimum, read.maximum, low, high)])


def _length(low: float, high: float) -> float:
    return max(high, 0.0) - min(low, 0.0)


def _results(call: Call, numbers: np.ndarray) -> np.ndarray:
    """A layer's results at some numbers, the same in all channels."""
    # Kernels of factors are (1, 1, C, 1), slopes (..., 1, C): so are their inputs.
    weights = getattr(call.layer, "kernel", getattr(call.layer, "alpha", None))
    shape = (1, 1, 1) if weights is None else tuple(weights.shape[:3])
    numbers = numbers.astype(np.float32).reshape(-1, *(1 for _ in shape))
    places = np.broadcast_to(numbers, (len(numbers), *shape))
    return np.asarray(call([places]), np.float64).reshape(len(numbers), -1)[:, 0]
