"""Work on one thing while the one before it is still under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def abreast(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, count: int = 2
) -> Iterator[_Result]:
    """`function` of all items, in their order, of which `count` are computed at a time.

    A compiled function leaves processors idle where it waits for one of its operators; two calls of
    it fill each other's gaps. The first item is done alone: what is traced is traced once.

    Args:
        function: safe to be called in several threads, such as a `tf.function`.
        items: asked for one by one, when there is room for it.
    """
    if count == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[_Result]] = deque()
    is_first = True
    with ThreadPoolExecutor(count) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if is_first or len(waiting) > count:
                is_first = False
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
