"""The command that is being run, for reports to quote."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_TOKENS: ContextVar[tuple[str, ...]] = ContextVar("tokens", default=())


@contextmanager
def running(tokens: Sequence[str]) -> Iterator[None]:
    """Remembers what stands behind `tfeptq`, while it runs."""
    token = _TOKENS.set(tuple(tokens))
    try:
        yield
    finally:
        _TOKENS.reset(token)


def typed_command() -> str:
    """As a shell takes it."""
    return shlex.join(["tfeptq", *_TOKENS.get()])
