"""Histograms that grow with their values, whatever the order in which those come.

Bins are as wide as a power of two and are counted from zero. When a range has outgrown its bins,
neighbours are added up, and every value is then where it would have been from the start. So one
pass over the data is enough, and its order changes no count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

#: Of float64 numbers, one by one.
Function = Callable[[np.ndarray], np.ndarray]
#: A range spans at least so many bins, and less than twice as many.
BINS = 2048
#: Bins that it may touch, since it begins and ends inside of one.
_TOUCHED = 2 * BINS + 2
#: Widths of bins, as powers of two: for zeros alone, and for the range of all float32.
_NARROWEST, _WIDEST = -100, 117
_ROWS, _NUMBER, _STRIDE = (
    tf.TensorSpec(shape, kind)
    for shape, kind in (([None, None], tf.float32), ([], tf.float32), ([], tf.int32))
)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins.

    Attributes:
        minimum, maximum: of the values.
        counts: int64 (bins,), of bin number `first` and those that follow. Number k > 0 holds what
            is from k to k + 1 times 2**exponent, -k the same below zero, and 0 what is between -1
            and 1: zeros, which many activations are, count as what they are.
    """

    minimum: float
    maximum: float
    counts: np.ndarray
    first: int
    exponent: int

    @property
    def centers(self) -> np.ndarray:
        numbers = self.first + np.arange(self.counts.size)
        return (numbers + 0.5 * np.sign(numbers)) * 2.0**self.exponent

    def weighing(self, other: Histogram) -> Histogram:
        """With counts as large as those of another, whose values these stand for."""
        factor = max(int(other.counts.sum()) // int(self.counts.sum()), 1)
        return dataclasses.replace(self, counts=self.counts * factor)

    def beyond(self, low: float, high: float, least: float, most: float) -> list[Histogram]:
        """Of its values from `least` to `most` those outside of [low, high], if there are any."""
        numbers, half = self.centers, 0.5 * 2.0**self.exponent
        # An extreme lies on either side of the middle of its bin.
        wanted = (numbers >= least - half) & (numbers < low - half)
        wanted |= (numbers > high + half) & (numbers <= most + half)
        ends = [end for end, old in ((least, low), (most, high)) if end != old]
        if not ends:
            return []
        counts = np.where(wanted, self.counts, 0)
        return [dataclasses.replace(self, minimum=min(ends), maximum=max(ends), counts=counts)]

    def where_reached(self, results: Histogram, function: Function) -> Histogram | None:
        """Of its values those of which a monotone function gives the values of `results`.

        Where several give the same result, the one nearest to zero stands for all. Results that
        are none of its values' are left out.

        Returns:
            With the counts of `results`; None: none of them.
        """
        ends = np.array([self.minimum, self.maximum])
        inner = self.centers[self.counts > 0]
        numbers = np.unique(np.clip(np.concatenate([ends, inner]), *ends))
        reached = function(numbers)
        # By result, then by distance from zero: of equal results the first is kept.
        order = np.lexsort((np.abs(numbers), reached))
        reached, first = np.unique(reached[order], return_index=True)
        numbers = numbers[order][first]
        slack = 2.0**results.exponent
        wanted = results.centers
        used = (results.counts > 0) & (wanted >= reached[0] - slack)
        used &= wanted <= reached[-1] + slack
        if not used.any():
            return None
        found = np.interp(wanted[used], reached, numbers)
        extremes = np.interp(
            [max(results.minimum, reached[0]), min(results.maximum, reached[-1])], reached, numbers
        )
        places = np.trunc(found / 2.0**self.exponent).astype(np.int64) - self.first
        counts = np.zeros_like(self.counts)
        np.add.at(counts, np.clip(places, 0, counts.size - 1), results.counts[used])
        low, high = float(min(*extremes, *found)), float(max(*extremes, *found))
        return dataclasses.replace(self, minimum=low, maximum=high, counts=counts)

    @classmethod
    def of(cls, values: Any) -> Histogram:
        """Of one float32 array."""
        found = RunningHistograms(1)
        row = np.asarray(values, np.float32).reshape(1, -1)
        found.add(*(part[None] for part in counted(row, found.low[0], found.high[0], 1)))
        return found[0]

    @classmethod
    def pooled(cls, parts: Sequence[Histogram]) -> Histogram:
        """Of the values of all parts together."""
        low, high = min(p.minimum for p in parts), max(p.maximum for p in parts)
        _, exponent = _lattice(tf.constant(low), tf.constant(high))
        # A part of another histogram may have wider bins than its own range asks for.
        exponent = max(int(exponent), *(p.exponent for p in parts))
        first = int(_bins(tf.constant(low), tf.constant(exponent)))
        counts = np.zeros(_TOUCHED, np.int64)
        for part in parts:
            counts += _moved(part.counts, part.first, part.exponent, first, exponent)
        return cls(low, high, counts, first, exponent)


def as_arrays(histograms: Sequence[Histogram]) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept; counts one behind the other."""
    return {
        "extremes": np.array([(found.minimum, found.maximum) for found in histograms]),
        "bins": np.array([(each.first, each.exponent, each.counts.size) for each in histograms]),
        "counts": np.concatenate([found.counts for found in histograms]),
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Histogram]:
    """Inverse of `as_arrays`."""
    firsts, exponents, sizes = arrays["bins"].T.tolist()
    counts = np.split(arrays["counts"], np.cumsum(sizes)[:-1])
    rows = zip(arrays["extremes"].tolist(), counts, firsts, exponents, strict=True)
    return [Histogram(low, high, *rest) for (low, high), *rest in rows]


class RunningHistograms:
    """Histograms of several tensors, batch after batch.

    Attributes:
        low, high: least and largest value of each tensor so far, float32 (tensors,).
    """

    def __init__(self, tensors: int) -> None:
        self.low = np.full(tensors, np.inf, np.float32)
        self.high = np.full(tensors, -np.inf, np.float32)
        self._first = np.zeros(tensors, np.int64)
        self._exponent = np.full(tensors, _NARROWEST, np.int64)
        self._counts = np.zeros((tensors, _TOUCHED), np.int64)

    def add(self, low: Any, high: Any, first: Any, exponent: Any, counts: Any) -> None:
        """Results of `counted`, a row a tensor; it was given extremes of any batches before."""
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        lattice = (part.numpy().astype(np.int64) for part in _lattices(self.low, self.high))
        bins = list(zip(*lattice, strict=True))
        own = zip(self._first.tolist(), self._exponent.tolist(), strict=True)
        found = zip(np.asarray(first).tolist(), np.asarray(exponent).tolist(), strict=True)
        counts = np.asarray(counts, np.int64)
        for index, (old, new, wanted) in enumerate(zip(own, found, bins, strict=True)):
            row, added = self._counts[index], counts[index]
            row[:] = row if old == wanted else _moved(row, *old, *wanted)
            row += added if new == wanted else _moved(added, *new, *wanted)
        self._first, self._exponent = map(np.array, zip(*bins, strict=True))

    def __iter__(self) -> Iterator[Histogram]:
        return map(self.__getitem__, range(len(self.low)))

    def __getitem__(self, index: int) -> Histogram:
        return Histogram(
            float(self.low[index]),
            float(self.high[index]),
            self._counts[index],
            int(self._first[index]),
            int(self._exponent[index]),
        )


def counted(
    values: Any, low: Any, high: Any, stride: Any, least: float = -np.inf
) -> tuple[tf.Tensor, ...]:
    """What a batch adds to the histogram of one tensor, see `seen` and `counted_together`.

    Args:
        low, high: extremes of the batches before.

    Returns:
        As of `counted_together`, without the axis of tensors.
    """
    return _counted(values, low, high, stride, least)


@tf.function(input_signature=[_ROWS, _NUMBER, _NUMBER, _STRIDE, _NUMBER], autograph=False)
def _counted(values: Any, low: Any, high: Any, stride: Any, least: Any) -> tuple[tf.Tensor, ...]:
    columns = counted_together([seen(values, stride, least)], low[None], high[None])
    return tuple(column[0] for column in columns)


@tf.function(input_signature=[_ROWS, _STRIDE, _NUMBER], autograph=False)
def seen(values: tf.Tensor, stride: Any, least: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What there is to know of a tensor; traced once for all of them.

    Args:
        values: float32 (samples, values), finite.
        stride: distance of the values that are counted in a sample.
        least: a number below which no value is. Where a counted one is that, no smaller one is
            looked for.

    Returns:
        The values that are counted, float32 (n,), and the extremes of all.
    """
    some = tf.reshape(values[:, ::stride], [-1])
    smallest = tf.reduce_min(some)
    # Half of the passes through memory behind a ReLU.
    smallest = tf.cond(smallest <= least, lambda: smallest, lambda: tf.reduce_min(values))
    return some, smallest, tf.reduce_max(values)


def counted_together(
    tensors: Sequence[tuple[tf.Tensor, tf.Tensor, tf.Tensor]], low: Any, high: Any
) -> tuple[tf.Tensor, ...]:
    """What a batch adds to the histograms of tensors.

    Args:
        tensors: what is `seen` of each.
        low, high: extremes of the batches before, float32 (tensors,).

    Returns:
        Extremes with this batch, first bin and exponent for them, (tensors,); counts of this batch,
        int32 (tensors, bins).
    """
    some, smallest, largest = zip(*tensors, strict=True)
    low, high = tf.minimum(low, tf.stack(smallest)), tf.maximum(high, tf.stack(largest))
    first, exponent = _lattice(low, high)
    # One histogram behind the other.
    begins = tf.unstack(first - _TOUCHED * tf.range(len(some)))
    rows = zip(some, tf.unstack(_scale(exponent)), begins, strict=True)
    bins = tf.concat([tf.cast(row * scale, tf.int32) - begin for row, scale, begin in rows], 0)
    counts = tf.raw_ops.DenseBincount(
        input=bins, size=_TOUCHED * len(some), weights=tf.constant([], tf.int32)
    )
    return low, high, first, exponent, tf.reshape(counts, [-1, _TOUCHED])


def _lattice(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First bin and exponent of a range. A wider range never gets narrower bins."""
    by_range = _exponent(high - low) - (BINS.bit_length() - 1)
    # Finer bins than float32 has values around the largest would have numbers beyond int32.
    by_size = _exponent(tf.maximum(tf.abs(low), tf.abs(high))) - 22
    exponent = tf.clip_by_value(tf.maximum(by_range, by_size), _NARROWEST, _WIDEST)
    return _bins(low, exponent), exponent


@tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])], autograph=False)
def _lattices(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of several ranges."""
    return _lattice(low, high)


def _exponent(values: tf.Tensor) -> tf.Tensor:
    """Largest power of two that is not above a positive number, read from its bits."""
    return tf.bitwise.right_shift(tf.bitcast(tf.abs(values), tf.int32), 23) - 127


def _bins(values: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """Number of the bin of every value, int32: exact, for the scale is a power of two."""
    return tf.cast(values * _scale(exponent), tf.int32)


def _scale(exponent: tf.Tensor) -> tf.Tensor:
    """2^-exponent, float32."""
    return tf.bitcast(tf.bitwise.left_shift(127 - exponent, 23), tf.float32)


def _moved(
    counts: np.ndarray, first: int, exponent: int, new_first: int, new_exponent: int
) -> np.ndarray:
    """The same counts in bins of another begin and of the same or a greater width."""
    result = np.zeros(_TOUCHED, np.int64)
    used = np.flatnonzero(counts)
    numbers = first + used
    # They are below 2**24: a longer shift leaves nothing more of them.
    moved = np.sign(numbers) * (np.abs(numbers) >> min(new_exponent - exponent, 31))
    np.add.at(result, moved - new_first, counts[used])
    return result
