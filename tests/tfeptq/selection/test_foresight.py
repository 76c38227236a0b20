"""Evaluations side by side: the same outcome as one after the other, whatever holds."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tfeptq.selection.programs import choices, programs
from tfeptq.goals import AccuracyTarget
from tfeptq.selection.accuracy import Judge
from tfeptq.selection.bisection import bisect_frontier, bisect_layers
from tfeptq.selection.factor import weights
from tfeptq.selection.foresight import next_choices, question

TARGET = AccuracyTarget(len, relative=1.0)


def holding(widths, seed):
    """Whether a choice holds: by chance, not by size, as noisy metrics have it."""
    return zlib.crc32(repr((seed, question(widths))).encode()) % 3 > 0


def judge(seed, rounds):
    """Of choices by `holding`; notes which are asked about together."""

    def measure(widths):
        rounds.append([widths])
        return np.array([float(holding(widths, seed))])

    def measure_all(several):
        rounds.append(list(several))
        return [np.array([float(holding(widths, seed))]) for widths in several]

    return Judge(TARGET, np.ones(1), measure, measure_all)


def assert_same(search, seed, at_a_time):
    alone, together = [], []
    expected = judge(seed, alone).answer(search, 1)
    assert judge(seed, together).answer(search, at_a_time) == expected
    asked = [question(widths) for several in together for widths in several]
    assert len(set(asked)) == len(asked)
    assert {question(widths) for (widths,) in alone} <= set(asked)
    assert max(map(len, together)) <= at_a_time
    assert len(together) <= len(alone)
    return alone, together


@given(
    costs=st.lists(st.integers(1, 10_000), min_size=1, max_size=60, unique=True),
    seed=st.integers(0, 1000),
    at_a_time=st.integers(2, 9),
)
def test_a_bisection_of_the_frontier(costs, seed, at_a_time):
    costs = np.sort(np.array(costs, np.float64))
    name = weights("layer")
    assert_same(
        lambda holds: bisect_frontier(costs, lambda point: holds({name: point})), seed, at_a_time
    )


@given(program=programs(), seed=st.integers(0, 1000), at_a_time=st.integers(2, 6))
def test_a_bisection_of_layers(program, seed, at_a_time):
    if not list(choices(program)):
        return
    assert_same(lambda holds: bisect_layers(program, ["bytes"], holds), seed, at_a_time)


def test_seven_at_a_time_take_a_third_of_the_rounds():
    """A tree of three levels of questions has seven of them."""
    costs, name = np.arange(100.0, 612.0), weights("layer")
    found = []
    search = lambda holds: found.append(bisect_frontier(costs, lambda p: holds({name: p})))  # noqa: E731
    known, rounds = {}, 0
    while several := next_choices(search, known, 7):
        rounds += 1
        known |= {question(widths): widths[name] >= 333 for widths in several}
    assert found[-1] >= 333
    assert rounds <= 4


def test_ways_that_ask_the_same_come_to_an_end():
    name = weights("layer")

    def search(holds):
        for point in range(100):
            holds({name: point})

    assert [widths[name] for widths in next_choices(search, {}, 4)] == [0, 1, 2, 3]
