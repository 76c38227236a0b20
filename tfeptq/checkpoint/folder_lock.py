"""One process at a time in a folder; the kernel opens the lock again when its process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = "lock"
#: Descriptors of the locks that this process holds: a child that outlives it must not.
_HELD: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(folder: Path, argument: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made where there is none.

    Args:
        argument: by which the user named the folder.

    Raises:
        ValueError: another run is using it, or nothing can be written there.
    """
    where = f"{argument}={str(folder)!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(
            f"{where} cannot be written: {error.strerror}; give a folder of your own"
        ) from error
    try:
        _acquire(descriptor, where)
        _HELD.add(descriptor)
        yield
    finally:
        _HELD.discard(descriptor)
        os.close(descriptor)


def _acquire(descriptor: int, where: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
        raise ValueError(
            f"{where} is in use by {owner}: wait until it ends, or give this run another folder"
        ) from error
    except OSError:
        # A network drive without locks: a run alone in its folder needs none.
        return
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process().encode(), 0)


def _this_process() -> str:
    return f"process {os.getpid()} on {os.uname().nodename} ({' '.join(sys.argv)[:200]})"
