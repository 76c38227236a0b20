"""Work that falls into parts which know nothing of each other: here, or wherever workers are.

A stage that sums over batches says how to compute one part and adds the results up itself, in the
order of the parts. Who computes them is none of its business, and changes no bit of the sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from tfeptq.progress import progress

#: Called with inputs by name; gives the function of one item.
Build = Callable[..., Callable[..., Any]]


class Run(Protocol):
    """Computes items in their order."""

    def __call__(self, items: Sequence[Any], common: Any = None) -> Generator[Any]:
        """Results.

        Args:
            common: a second argument for all of them, if there is one.
        """


class Workers(Protocol):
    """Whoever computes parts of the work."""

    @property
    def count(self) -> int:
        """How many parts are computed at a time."""

    @property
    def trains(self) -> bool:
        """Whether they share the steps of a training too."""

    def opened(self, build: Build, inputs: Mapping[str, Any], title: str) -> Run:
        """What computes items as `mapped` does, again and again, and is built once in each."""


_WORKERS: ContextVar[Workers | None] = ContextVar("workers", default=None)


@contextmanager
def shared_among(workers: Workers) -> Iterator[None]:
    """Has `workers` compute the parts of what happens inside."""
    token = _WORKERS.set(workers)
    try:
        yield
    finally:
        _WORKERS.reset(token)


def worker_count() -> int:
    """How many parts are computed at a time: 1 where nobody was told to share the work."""
    workers = _WORKERS.get()
    return 1 if workers is None else workers.count


def mapped(
    build: Build, inputs: Mapping[str, Any], items: Sequence[Any], title: str
) -> Iterator[Any]:
    """`build(**inputs)(item)` of all items, in their order; whoever has enough may stop.

    Args:
        build: a function of a module: it may be called in other processes, once in each.
        inputs: arrays, Keras models and what else can be pickled; nobody may change them.
        items: small: each travels to whoever computes it.
        title: of the bar.
    """
    if not items:
        return
    if len(items) == 1:
        # Whatever takes long in it has a bar of its own.
        yield build(**inputs)(items[0])
        return
    workers = _WORKERS.get()
    if workers is not None:
        with closing(workers.opened(build, inputs, title)(items)) as found:
            for _, result in zip(progress(items, title), found, strict=True):
                yield result
        return
    run = build(**inputs)
    for item in progress(items, title):
        yield run(item)


def trained_together(build: Build, inputs: Mapping[str, Any]) -> Run | None:
    """What computes parts of the batches of a training; None where workers do not share them."""
    workers = _WORKERS.get()
    if workers is None or not workers.trains:
        return None
    return workers.opened(build, inputs, "distillation")


def shares(count: int) -> list[range]:
    """The numbers below `count`, in order, in as many ranges as there are workers at most.

    Example:
        >>> shares(3), shares(0)
        ([range(0, 3)], [])
    """
    parts = min(worker_count(), count)
    ends = [count * index // max(parts, 1) for index in range(parts + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(ends)]
