"""Programs that tests start, watch and kill."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def script(text: str, *arguments: str) -> subprocess.Popen[str]:
    """A program without a guard around its main part, warnings are errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(text), *arguments]
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until_told(pipe: Path, pid: int) -> None:
    """Returns when a process, or one that it has started, has written to a named pipe.

    Fails when the process ends before.
    """
    ends = [os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(pid)]
    poll = select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    poll.poll()
    told = os.read(ends[0], 1)
    for end in ends:
        os.close(end)
    assert told, "the process ended before it said that it was ready"


def assert_lock_ends_with(program: subprocess.Popen[str], lock: Path) -> None:
    """A lock that processes of a program hold is free when the program has been killed."""
    with lock.open("w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        program.kill()
        program.communicate()
        fcntl.flock(file, fcntl.LOCK_EX)
