"""What native libraries print on standard error, for use in the errors we raise."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_STANDARD_ERROR = 2


@contextlib.contextmanager
def captured() -> Iterator[Callable[[], list[str]]]:
    """Keeps native messages off the terminal; the value returns the lines printed so far.

    Works on the file descriptor, because native code does not know of `sys.stderr`.
    """
    sys.stderr.flush()
    saved = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STANDARD_ERROR)

        def lines() -> list[str]:
            file.seek(0)
            return file.read().decode("utf-8", "replace").strip().splitlines()

        try:
            yield lines
        finally:
            os.dup2(saved, _STANDARD_ERROR)
            os.close(saved)
