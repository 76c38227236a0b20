"""A file that kills its runtime kills a rehearsal in another process, not the caller.

Native kernels trust a file's operands and options: a damaged one can end the process by a signal,
or never return. What the exporter has verified, or what has run before, needs no rehearsal.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: One inference on one sample; the slowest kernels need seconds for the largest of phones' models.
TIMEOUT_SECONDS = 120

_WORKER = """
import sys
import numpy as np
from tflite_export.runtimes import RUNTIMES
with open(sys.argv[1], "rb") as file:
    content = file.read()
with np.load(sys.argv[2]) as stored:
    samples = [stored[name] for name in sorted(stored)]
try:
    RUNTIMES[sys.argv[3]].open(content)(samples)
except Exception:
    pass  # What can be raised is raised again, and better, in the caller's process.
"""
_survived: set[tuple[str, str]] = set()


def trust(content: bytes, runtime: str) -> None:
    """Remembers that a file has run in this process: it needs no rehearsal."""
    _survived.add(_key(content, runtime))


def rehearse(content: bytes, runtime: str, samples: Sequence[np.ndarray]) -> None:
    """Runs a file once in another process, unless it is known to survive.

    Args:
        runtime: name of a runtime that runs in this process.
        samples: integers or floats as the file takes them, one array (1, ...) a model input.

    Raises:
        ValueError: the runtime dies of the file, or does not finish.
    """
    key = _key(content, runtime)
    if key in _survived:
        return
    with tempfile.TemporaryDirectory() as folder:
        model, given = Path(folder) / "m.tflite", Path(folder) / "i.npz"
        model.write_bytes(content)
        np.savez(given, allow_pickle=False, **{f"{i:03d}": a for i, a in enumerate(samples)})
        command = [sys.executable, "-c", _WORKER, str(model), str(given), runtime]
        code = _exit_code(command, runtime)
    if code < 0:
        raise ValueError(
            f"{runtime} dies of the file ({signal.Signals(-code).name}): it is damaged, or has "
            "an operator that this runtime cannot execute"
        )
    _survived.add(key)


def _exit_code(command: list[str], runtime: str) -> int:
    try:
        finished = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{runtime} does not finish one inference within {TIMEOUT_SECONDS} s: the file is "
            "damaged, or far too large"
        ) from error
    return finished.returncode


def _key(content: bytes, runtime: str) -> tuple[str, str]:
    return hashlib.sha256(content).hexdigest(), runtime
