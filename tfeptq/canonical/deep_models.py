"""Lets Keras build models of any depth."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: More calls than any model has.
_CALLS = 10**6


@contextmanager
def followed_to_the_end() -> Iterator[None]:
    """For the construction of a functional model.

    Keras follows its calls by recursion, one within the other, and Python ends at a thousand: that
    is an LSTM of 110 steps. Calls of Python functions by Python functions take no room on the
    stack of the processor.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _CALLS))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
