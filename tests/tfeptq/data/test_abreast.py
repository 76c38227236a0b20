"""Two at a time, in order."""

from __future__ import annotations

import threading

import hypothesis
import hypothesis.strategies as st
import pytest

from tfeptq.data.abreast import abreast


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(st.integers()), st.integers(1, 3))
def test_results_come_in_order_and_no_more_are_asked_for_than_have_room(items, count):
    asked, taken = [], []
    given = (asked.append(item) or item for item in items)
    for result in abreast(lambda item: 2 * item, given, count=count):
        taken.append(result)
        assert len(asked) <= len(taken) + count
    assert taken == [2 * item for item in items]
    assert asked == items


def test_the_first_is_alone_and_the_others_meet():
    """Each of two items waits until the other has begun: one by one they never would."""
    meeting, begun = threading.Barrier(2, timeout=30), []

    def work(item):
        begun.append(item)
        if item:
            meeting.wait()
        return item, list(begun)

    results = list(abreast(work, [0, 1, 2]))
    assert results[0] == (0, [0])
    assert [item for item, _ in results] == [0, 1, 2]


def test_an_error_comes_out_where_its_item_is():
    results = abreast(lambda item: 1 // item, [2, 1, 0, 1])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
