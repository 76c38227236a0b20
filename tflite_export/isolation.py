"""Calls in a process of their own: a file that kills its runtime does not kill the caller.

Native kernels trust a file's operands and options: a damaged one can end the process by a signal,
or never return. Files that the exporter has verified, or that have run before, are trusted.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Of one inference, and of whatever else a call does between two of them.
TIMEOUT_SECONDS = 120

_trusted: set[tuple[str, str]] = set()
_is_worker = False


def trust(content: bytes, runtime: str) -> None:
    """Remembers that a file has run in this process, or in one like it."""
    _trusted.add(_key(content, runtime))


def guarded(content: bytes, runtime: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, which runs a file: in another process unless the file is trusted.

    Args:
        content: the file.
        runtime: that the function runs it in, by name.
        function: of a module, so that another process finds it.
        arguments: like the result, anything that pickles.

    Raises:
        ValueError: the runtime dies of the file, or does not finish.
        Exception: whatever the function raises.
    """
    key = _key(content, runtime)
    if key in _trusted or _is_worker:
        return function(*arguments)
    result = _call(runtime, function, arguments)
    _trusted.add(key)
    return result


def heartbeat() -> None:
    """Says from within a guarded call that work goes on; elsewhere it does nothing."""
    if _is_worker:
        signal.alarm(TIMEOUT_SECONDS)


def _key(content: bytes, runtime: str) -> tuple[str, str]:
    return hashlib.sha256(content).hexdigest(), runtime


def _call(runtime: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given", Path(folder) / "made"
        given.write_bytes(pickle.dumps((function, arguments)))
        finished = subprocess.run(
            [sys.executable, "-c", _WORKER, str(given), str(made)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=False,
        )
        if finished.returncode:
            raise ValueError(_ending(runtime, finished))
        is_error, result = pickle.loads(made.read_bytes())
    if is_error:
        raise result
    return result


def _ending(runtime: str, finished: subprocess.CompletedProcess[bytes]) -> str:
    if finished.returncode == -signal.SIGALRM:
        return (
            f"{runtime} does not finish one inference within {TIMEOUT_SECONDS} s: the file is "
            "damaged, or far too large"
        )
    if finished.returncode < 0:
        name = signal.Signals(-finished.returncode).name
        return (
            f"{runtime} dies of the file ({name}): it is damaged, or has an operator that this "
            "runtime cannot execute"
        )
    lines = finished.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
    return f"the process for {runtime} failed: {lines[-1]}"


_WORKER = "import sys; from tflite_export import isolation; isolation.work(*sys.argv[1:])"


def work(given: str, made: str) -> None:
    """The other process: calls what one file says and writes the result to another."""
    global _is_worker
    _is_worker = True
    heartbeat()
    function, arguments = pickle.loads(Path(given).read_bytes())
    try:
        answer = (False, function(*arguments))
    except Exception as error:
        answer = (True, error)
    Path(made).write_bytes(pickle.dumps(answer))
