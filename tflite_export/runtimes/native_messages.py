"""What native libraries print on standard error, for use in the errors we raise."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_STANDARD_ERROR = 2

#: Workers have a file for standard error: what is printed there survives them.
is_kept_in_a_file = False


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], list[str]]]:
    """Keeps native messages off the terminal; the value returns the lines printed so far.

    Works on the file descriptor, because native code does not know of `sys.stderr`.
    """
    sys.stderr.flush()
    if is_kept_in_a_file:
        begin = os.lseek(_STANDARD_ERROR, 0, os.SEEK_CUR)
        yield lambda: _lines(_STANDARD_ERROR, begin)
        return
    saved = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STANDARD_ERROR)
        try:
            yield lambda: _lines(file.fileno(), 0)
        finally:
            os.dup2(saved, _STANDARD_ERROR)
            os.close(saved)


def _lines(file: int, begin: int) -> list[str]:
    size = max(os.fstat(file).st_size - begin, 0)
    return os.pread(file, size, begin).decode("utf-8", "replace").strip().splitlines()
