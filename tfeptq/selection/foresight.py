"""What a search will ask next, whatever the answers are: so that several can be found at a time.

A search is followed along every way that it can take from what is known. It finds what it would
find one question after the other, for it is given the same answers; some are found in vain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

from tfeptq.selection.factor import Variable, Widths

Found = TypeVar("Found")
#: A choice of widths, as it is remembered.
Question = tuple[tuple[Variable, int], ...]
#: Says whether a choice holds.
Holds = Callable[[Widths], bool]
#: Ways that are followed for each question that is wanted, at most: ways may ask the same.
_WAYS = 8


def question(widths: Widths) -> Question:
    return tuple(widths.items())


class _UnknownError(Exception):
    """Stops a search at the first choice of which nobody knows whether it holds."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths


def next_choices(
    search: Callable[[Holds], Found], known: Mapping[Question, bool], count: int
) -> list[Widths]:
    """Up to `count` choices that a search may ask about next, the nearest first; none at its end.

    Args:
        search: the same answers lead it the same way.
        known: choices of which it is known whether they hold.
    """
    found: dict[Question, Widths] = {}
    ways: deque[Mapping[Question, bool]] = deque([known])
    for _ in range(_WAYS * count):
        if not ways or len(found) == count:
            break
        answers = ways.popleft()
        asked = _first_unknown(search, answers)
        if asked is not None:
            found[question(asked)] = asked
            ways.extend({**answers, question(asked): holds} for holds in (True, False))
    return list(found.values())


def _first_unknown(
    search: Callable[[Holds], Found], answers: Mapping[Question, bool]
) -> Widths | None:
    def holds(widths: Widths) -> bool:
        answer = answers.get(question(widths))
        if answer is None:
            raise _UnknownError(widths)
        return answer

    try:
        search(holds)
    except _UnknownError as unknown:
        return unknown.widths
    return None
