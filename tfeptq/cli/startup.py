"""Loads TensorFlow for the command line without its start-up chatter."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tfeptq.backend import require_tensorflow


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices; what it logs meanwhile is shown only on failure.

    Its native part reports processors, missing GPU libraries and failed drivers before any
    setting takes effect. Whoever sets TF_CPP_MIN_LOG_LEVEL sees everything.
    """
    require_tensorflow()
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    with _stderr_held_back():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            # Not after Ctrl-C: whoever stops it has no use for it.
            _copy(held, stderr)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _copy(held: IO[bytes], descriptor: int) -> None:
    held.seek(0)
    os.write(descriptor, held.read())
