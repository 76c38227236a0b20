"""Programs of others on a file: within limits of time and memory, and never longer than we live."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tflite_export.runtimes.isolation import MEMORY_BYTES, MEMORY_PER_BYTE

#: Address space that a program takes by itself: its code, its libraries, the stacks of its threads.
OWN_BYTES = 2 << 30
_ROOT = str(Path(__file__).parents[2])
_LAUNCH = (
    f"import sys; sys.path.append({_ROOT!r}); "
    "from tflite_export.runtimes.worker import become_program; "
    "become_program(int(sys.argv[1]), sys.argv[2:])"
)


def run_program(
    command: Sequence[str], *, name: str, seconds: float, file_bytes: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and returns what it printed.

    Its standard input is a pipe that ends when this process does, in whatever way: that ends the
    program and all that it has started, see `worker.end_with_caller`.

    Args:
        command: a program, found on the PATH, and its arguments.
        name: of the program in errors.
        seconds: that it may take.
        file_bytes: size of the file that it works on, for the memory that it may need.

    Raises:
        ValueError: it does not finish in time.
    """
    memory = OWN_BYTES + MEMORY_BYTES + MEMORY_PER_BYTE * file_bytes
    # Without site packages: all that the launcher needs is in the standard library.
    launch = [sys.executable, "-S", "-c", _LAUNCH, str(memory), *command]
    with contextlib.ExitStack() as stack:
        lifeline, ours = os.pipe()
        stack.callback(os.close, ours)
        stack.callback(os.close, lifeline)
        printed, complained = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        process = subprocess.Popen(
            launch, stdin=lifeline, stdout=printed, stderr=complained, process_group=0
        )
        stack.callback(_end, process)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{name} does not finish within {seconds:g} s") from None
        return subprocess.CompletedProcess(command, code, _text(printed), _text(complained))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program that still runs, and what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
