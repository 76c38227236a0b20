"""Histograms that grow: exact, and the same in every order."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
from hypothesis.extra import numpy as arrays

from tfeptq.calibrate.histograms import (
    BINS,
    Histogram,
    RunningHistograms,
    counted,
    counted_together,
    seen,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
#: Anything, and what activations are like: many sizes and offsets, halves of zeros.
SEEDED = st.builds(
    lambda seed, size, offset, is_rectified, count: _activations(
        seed, size, offset, is_rectified, count
    ),
    st.integers(0, 2**32 - 1),
    st.integers(-30, 30),
    st.sampled_from([0.0, 1.0, -1e3, 1e6]),
    st.booleans(),
    st.integers(1, 300),
)
VALUES = st.one_of(arrays.arrays(np.float32, st.integers(1, 40), elements=FINITE), SEEDED)


def _activations(seed, size, offset, is_rectified, count):
    values = (np.random.default_rng(seed).normal(size=count) + offset) * 10.0**size
    return (np.maximum(values, 0.0) if is_rectified else values).astype(np.float32)


def streamed(parts: list[np.ndarray]) -> Histogram:
    found = RunningHistograms(1)
    for part in parts:
        row = part[None]
        found.add(*(each[None] for each in counted(row, found.low[0], found.high[0], 1)))
    return found[0]


def check_equal(left: Histogram, right: Histogram) -> None:
    names = ("minimum", "maximum", "first", "exponent")
    assert [getattr(left, name) for name in names] == [getattr(right, name) for name in names]
    np.testing.assert_array_equal(left.counts, right.counts)


@hypothesis.settings(max_examples=150)
@hypothesis.given(VALUES, st.randoms(use_true_random=False))
def test_order_and_batches_change_no_count(values, random):
    expected = Histogram.of(values)
    order = random.sample(range(len(values)), len(values))
    cuts = sorted(random.sample(range(1, len(values)), min(3, len(values) - 1)))
    parts = np.split(values[order], cuts)
    check_equal(streamed(parts), expected)
    check_equal(Histogram.pooled([Histogram.of(part) for part in parts]), expected)


@hypothesis.settings(max_examples=100)
@hypothesis.given(VALUES, st.randoms(use_true_random=False))
def test_batches_may_be_counted_before_those_in_front_of_them_are_added(values, random):
    parts = np.array_split(values, min(4, len(values)))
    found, counts = RunningHistograms(1), []
    for part in parts:
        counts.append(counted(part[None], found.low[0], found.high[0], 1))
        if random.random() < 0.5:
            found.add(*(each[None] for each in counts.pop(0)))
    for late in counts:
        found.add(*(each[None] for each in late))
    check_equal(found[0], Histogram.of(values))


@hypothesis.settings(max_examples=300)
@hypothesis.given(VALUES)
def test_values_are_in_their_bins(values):
    found = Histogram.of(values)
    # TensorFlow flushes what is no normal number of float32 to zero.
    tiny = np.finfo(np.float32).tiny
    values = np.where(np.abs(values) < tiny, np.float32(0.0), values)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.counts.sum() == len(values)
    width = 2.0**found.exponent
    exact = np.trunc(values.astype(np.float64) / width)
    numbers = found.first + np.arange(len(found.counts))
    np.testing.assert_array_equal(found.counts, (exact[:, None] == numbers).sum(axis=0))
    distances = np.abs(found.centers - values.astype(np.float64)[:, None]).min(axis=1)
    assert np.all(distances <= width)
    span = float(values.max()) - float(values.min())
    # Fine enough, but where float32 itself is coarser.
    largest = float(np.abs(values).max())
    assert width <= max(span / BINS, largest * 2.0**-22, 2.0**-100)


@hypothesis.settings(max_examples=100)
@hypothesis.given(SEEDED, st.integers(1, 7), st.booleans())
def test_a_known_least_value_changes_nothing(values, stride, is_rectified):
    values = np.maximum(values, 0.0) if is_rectified else np.abs(values)
    row, known = values[None], RunningHistograms(1)
    arguments = (row, known.low[0], known.high[0], stride)
    for left, right in zip(counted(*arguments), counted(*arguments, 0.0), strict=True):
        np.testing.assert_array_equal(left, right)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(VALUES, min_size=1, max_size=5))
def test_tensors_are_counted_together_as_each_alone(tensors):
    together = RunningHistograms(len(tensors))
    parts = [seen(values[None], 1, -np.inf) for values in tensors]
    together.add(*counted_together(parts, together.low, together.high))
    for found, values in zip(together, tensors, strict=True):
        check_equal(found, Histogram.of(values))
