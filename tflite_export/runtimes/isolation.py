"""Calls in processes of their own: a file that kills its runtime does not kill the caller.

Native kernels trust a file's operands and options, and some end the program for inputs that a file
has never seen: no file is safe because it has run before. So every native interpreter runs in a
worker, a process that imports it once and then takes call after call. There is one a runtime; when
it dies, hangs or asks for too much memory it is replaced, and the caller gets an error. See
`tflite_export.runtimes.worker` for the other end.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

#: Of one inference, and of whatever else a call does between two of them.
TIMEOUT_SECONDS = 120.0
#: Until a worker has imported its runtime: a disk may be slow.
START_SECONDS = 120.0
#: Address space that a call may take beside what the runtime takes by itself, ...
MEMORY_BYTES = 4 << 30
#: ... and for every byte of the file: kernels unpack and copy weights.
MEMORY_PER_BYTE = 4
#: Kinds of answers, by their first byte.
BEAT, RESULT, ERROR = b"B", b"R", b"E"

#: Environment variable: a Python that has tflite-runtime, which needs numpy < 2.
TFLITE_RUNTIME_PYTHON = "TFLITE_RUNTIME_PYTHON"
#: No runtime, but a package with native parts that is kept out of the caller like one.
MEDIAPIPE = "mediapipe"
#: Runtime -> modules that its worker imports before it is asked.
_MODULES = {
    "litert": ("tflite_export.runtimes.sessions", "ai_edge_litert.interpreter"),
    "litert-reference": ("tflite_export.runtimes.sessions", "ai_edge_litert.interpreter"),
    "tflm": (
        "tflite_export.runtimes.sessions",
        "tflite_export.runtimes.tflm",
        "tflite_micro.runtime",
    ),
    "tflite-runtime": ("tflite_export.runtimes.old_runtime", "tflite_runtime.interpreter"),
    MEDIAPIPE: ("mediapipe.tasks.metadata.metadata_schema_py_generated",),
}
_ROOT = str(Path(__file__).parents[2])
_LONGEST_MESSAGE = 300
_SECONDS_TO_DIE = 10.0


class WorkerError(ValueError):
    """A runtime died of a file, did not finish, or needs more memory than it may have."""


def guarded(content: bytes, runtime: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, which runs a file, in the worker of a runtime.

    Args:
        content: the file, for the memory that it may need.
        runtime: that the function runs it in, by name.
        function: of a module, so that another process finds it.
        arguments: like the result, anything that pickles.

    Raises:
        WorkerError: the runtime dies of the file, does not finish, or needs too much memory.
        ValueError: whatever else goes wrong in the function, in its words where it raises one.
    """
    if _is_worker:
        return function(*arguments)
    memory = MEMORY_BYTES + MEMORY_PER_BYTE * len(content)
    request = pickle.dumps((memory, function, arguments), protocol=pickle.HIGHEST_PROTOCOL)
    kind, payload = _pool.exchange(runtime, request)
    answer = pickle.loads(payload)
    if kind == ERROR:
        raise _explained(runtime, answer)
    return answer


def in_worker() -> bool:
    """Whether this process is a worker, in which native code may run."""
    return _is_worker


def start(*runtimes: str) -> None:
    """Starts the workers of runtimes, which import them while the caller does other things.

    Those that are not installed are left out.
    """
    if _is_worker:
        return
    for runtime in runtimes:
        packages = [module.partition(".")[0] for module in _MODULES[runtime]]
        if all(map(importlib.util.find_spec, packages)):
            _pool.start(runtime)


def heartbeat() -> None:
    """Says from within a guarded call that work goes on; elsewhere it does nothing."""
    if _beat is not None:
        _beat()


def become_worker(beat: Callable[[], None]) -> None:
    """Makes this process one that calls in place and says by `beat` that work goes on."""
    global _is_worker, _beat
    _is_worker, _beat = True, beat


_is_worker = False
_beat: Callable[[], None] | None = None


def _explained(runtime: str, error: Exception) -> Exception:
    """Errors in our words stay; what others raise on a file says something about the file."""
    if isinstance(error, MemoryError):
        return WorkerError(f"{runtime} needs more memory for the file than {_memory()}")
    if isinstance(error, ValueError) or type(error).__module__.startswith("tflite_export"):
        return error
    explained = ValueError(f"{runtime} cannot execute the file: {type(error).__name__}: {error}")
    explained.__cause__ = error
    return explained


def _memory() -> str:
    return f"{MEMORY_BYTES / 2**30:g} GiB and {MEMORY_PER_BYTE} times its size"


class _DeathError(Exception):
    """A worker ended before it answered; says what the caller should know.

    Attributes:
        is_late: it was ended because it did not answer in time.
    """

    is_late = False


class _LateError(_DeathError):
    is_late = True


class Worker:
    """One process that executes requests one by one.

    Args:
        command: of the process, to which the number of its end of the connection is added.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._connection, theirs = Pipe()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        self.is_used = False
        with theirs:
            # Its standard input ends when this process does, in whatever way: see `worker`.
            # A group of its own: an interrupt from the keyboard is for the caller.
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def exchange(self, runtime: str, request: bytes) -> tuple[bytes, bytes]:
        """Kind and content of the answer.

        Raises:
            _DeathError: there is none; the process has ended.
        """
        try:
            if not self.is_used:
                self._receive(runtime, START_SECONDS)
            self.is_used = True
            self._forget_messages()
            self._connection.send_bytes(request)
            while True:
                answer = self._receive(runtime, TIMEOUT_SECONDS)
                if answer[:1] != BEAT:
                    return answer[:1], answer[1:]
        except (EOFError, OSError):
            raise _DeathError(self._ending(runtime)) from None
        except BaseException:
            # An interrupted exchange would give the next caller this one's answer.
            self.end()
            raise

    def _receive(self, runtime: str, seconds: float) -> bytes:
        if not self._connection.poll(seconds):
            self.end()
            raise _LateError(
                f"{runtime} does not finish one inference within {seconds:g} s: the file is "
                "damaged, or far too large"
            )
        return self._connection.recv_bytes()

    def end(self) -> None:
        """Ends the process and leaves nothing of it; more than once is harmless."""
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Closes this process's ends of all connections."""
        self._connection.close()
        self._printed.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        # Of a worker that belongs to the process that this one was forked from.
        self._process.returncode = self._process.returncode or 0

    def _forget_messages(self) -> None:
        os.ftruncate(self._printed.fileno(), 0)
        os.lseek(self._printed.fileno(), 0, os.SEEK_SET)

    def _messages(self) -> list[str]:
        size = os.fstat(self._printed.fileno()).st_size
        return os.pread(self._printed.fileno(), size, 0).decode("utf-8", "replace").splitlines()

    def _ending(self, runtime: str) -> str:
        """How the process ended, once its end of the connection is closed."""
        try:
            code = self._process.wait(_SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            # It closed the connection itself.
            self._process.kill()
            code = self._process.wait()
        lines = [line.strip() for line in self._messages() if line.strip()]
        last = lines[-1][:_LONGEST_MESSAGE] if lines else ""
        self.forget()
        if code >= 0:
            return f"the process for {runtime} failed: {last or 'no message'}"
        name = signal.Signals(-code).name
        said = f"; its last words: {last}" if last else ""
        return (
            f"{runtime} dies of the file ({name}): it is damaged, needs more memory than "
            f"{_memory()}, or has an operator or a value that this runtime cannot execute{said}"
        )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What one worker serves: a runtime, in a Python."""

    runtime: str
    python: str

    @classmethod
    def of(cls, runtime: str) -> _Kind:
        python = os.environ.get(TFLITE_RUNTIME_PYTHON) if runtime == "tflite-runtime" else None
        return cls(runtime, python or sys.executable)

    def command(self) -> list[str]:
        # Another Python has its own numpy, which must be found before this one's.
        own = self.python == sys.executable
        path = f"sys.path[:] = {sys.path!r}" if own else f"sys.path.append({_ROOT!r})"
        program = (
            f"import sys; {path}; from tflite_export.runtimes.worker import serve; "
            f"serve(int(sys.argv[1]), {_MODULES.get(self.runtime, ())!r})"
        )
        return [self.python, "-c", program]


class _Pool:
    """One worker a kind, and a lock for each: calls of one kind wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[_Kind, threading.Lock] = {}
        self._workers: dict[_Kind, Worker] = {}

    def exchange(self, runtime: str, request: bytes) -> tuple[bytes, bytes]:
        kind = _Kind.of(runtime)
        with self._held(kind):
            # A file before this one may have left the process in ruins: then ask a new one.
            attempts = 2 if self._worker(kind).is_used else 1
            for attempt in range(attempts):
                try:
                    return self._worker(kind).exchange(runtime, request)
                except _DeathError as death:
                    del self._workers[kind]
                    if attempt == attempts - 1 or death.is_late:
                        raise WorkerError(str(death)) from None
            raise AssertionError("the loop returns or raises")

    def start(self, runtime: str) -> None:
        kind = _Kind.of(runtime)
        with self._held(kind):
            self._worker(kind)

    @contextlib.contextmanager
    def _held(self, kind: _Kind) -> Iterator[None]:
        with self._lock:
            lock = self._locks.setdefault(kind, threading.Lock())
        with lock:
            yield

    def _worker(self, kind: _Kind) -> Worker:
        found = self._workers.get(kind)
        if found is not None and found.is_alive:
            return found
        if found is not None:
            found.end()
        self._workers[kind] = Worker(kind.command())
        return self._workers[kind]

    def end(self) -> None:
        """Ends all workers; calls after it start new ones."""
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.end()

    def forget(self) -> None:
        """Leaves all workers to the process that this one was forked from."""
        for worker in self._workers.values():
            worker.forget()


_pool = _Pool()


def _forked() -> None:
    global _pool
    _pool.forget()
    _pool = _Pool()


atexit.register(lambda: _pool.end())
os.register_at_fork(after_in_child=_forked)
