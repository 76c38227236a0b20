"""A worker: a process that executes calls until its caller is gone; `isolation` is the other end.

Requests are pickles of (bytes of memory, function, arguments), answers begin with their kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import resource
import select
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from tflite_export.runtimes import isolation, native_messages

_STANDARD_INPUT = 0
#: At most so often a worker says that work goes on; far below any limit, far above its cost.
_SECONDS_BETWEEN_BEATS = 0.2
#: A worker that keeps so much address space from its calls makes room for a new one.
_KEPT_BYTES = 1 << 30


def serve(handle: int, modules: Sequence[str]) -> None:
    """Takes calls from a connection until it ends.

    Args:
        handle: file descriptor of a `multiprocessing.connection.Connection`.
        modules: what to import at once; what is missing will be missed by whoever needs it.
    """
    end_with_caller(_STANDARD_INPUT)
    # Nobody wants the memory of a dead runtime as a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(handle)
    isolation.become_worker(_Beat(connection))
    native_messages.is_kept_in_a_file = True
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    own = _address_space()
    connection.send_bytes(isolation.BEAT)
    while _address_space() <= own + _KEPT_BYTES:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_answer(request, own))


def become_program(memory: int, command: Sequence[str]) -> None:
    """Turns this process into a program of somebody else's.

    Args:
        memory: bytes of address space that the program may take.
        command: what to run, found on the PATH, and its arguments.
    """
    # Owner and flag belong to the pipe, the limits to the process: both outlive `exec`.
    end_with_caller(_STANDARD_INPUT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_address_space(memory)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def end_with_caller(lifeline: int) -> None:
    """Lets the kernel end this process when a pipe ends, whatever the process is busy with.

    So end the processes that it has started, which are in its group.

    The caller holds the other end and never writes. SIGIO, whose default action is to end the
    process, also comes when the caller is killed, needs no thread of ours, and stops native code
    that never returns. PR_SET_PDEATHSIG would come when the caller's *thread* ends.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline)
    if poll.poll(0):
        # It ended before we asked to be told.
        os._exit(1)


class _Beat:
    """Sends a sign of life, unless the last one is recent."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._last = connection, time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last > _SECONDS_BETWEEN_BEATS:
            self._connection.send_bytes(isolation.BEAT)
            self._last = now


def _answer(request: bytes, own: int) -> bytes:
    try:
        memory, function, arguments = pickle.loads(request)
        with _limited(own + memory) if own else contextlib.nullcontext():
            result = function(*arguments)
        return isolation.RESULT + pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return isolation.ERROR + _pickled(error)


def _pickled(error: Exception) -> bytes:
    """An error as a pickle; one that does not come through says at least what it was."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pickled


def _address_space() -> int:
    """Bytes of address space in use, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@contextlib.contextmanager
def _limited(total: int) -> Iterator[None]:
    """At most so many bytes of address space; what asks for more is refused it."""
    soft, hard = _limit_address_space(total)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _limit_address_space(total: int) -> tuple[int, int]:
    """Sets a limit, where there is no lower one already; returns those before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = min((value for value in (total, soft, hard) if value >= 0), default=total)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    return soft, hard
