"""Workers: what a file does to a runtime reaches the caller as an error, and nothing else does."""

from __future__ import annotations

import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tflite_export.runtimes.processes import (
    assert_lock_ends_with,
    script,
    wait_until_told,
)
from tflite_export.runtimes import isolation, worker
from tflite_export.runtimes.isolation import WorkerError, guarded


def works() -> bool:
    return guarded(b"", "litert", len, "four") == 4


def worker_pid() -> int:
    return guarded(b"", "litert", os.getpid)


def test_calls_share_one_process_that_is_not_ours():
    assert works()
    assert worker_pid() == worker_pid() != os.getpid()


def test_a_call_that_dies_is_an_error_and_the_next_one_works():
    for _ in range(2):
        with pytest.raises(
            WorkerError, match=r"litert dies of the file \(SIGABRT\): it is damaged"
        ):
            guarded(b"deadly", "litert", os.abort)
        assert works()


def test_native_last_words_are_in_the_error():
    words = "import os; os.write(2, b'free(): invalid pointer\\n'); os.abort()"
    with pytest.raises(WorkerError, match=r"its last words: free\(\): invalid pointer"):
        guarded(b"", "litert", exec, words)


def test_a_process_that_ends_by_itself_is_an_error_too():
    with pytest.raises(WorkerError, match="the process for litert failed: bye"):
        guarded(b"", "litert", exec, "import sys; print('bye', flush=True); sys.exit(3)")
    assert works()


def test_a_call_that_never_ends_is_an_error(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(isolation, "TIMEOUT_SECONDS", 0.2)
        with pytest.raises(WorkerError, match=r"tflm does not finish one inference within 0\.2 s"):
            guarded(b"endless", "tflm", time.sleep, 3600)
    assert guarded(b"", "tflm", len, "four") == 4


def test_beats_are_sent_now_and_then(monkeypatch):
    clock, sent = iter([0.0, 0.1, 0.3, 0.4, 0.6]), []

    class Connection:
        send_bytes = staticmethod(sent.append)

    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    beat = worker._Beat(Connection())
    for _ in range(4):
        beat()
    assert sent == [isolation.BEAT] * 2


def test_beats_are_no_answers():
    beat = "from tflite_export.runtimes import isolation as i; i._beat._last = 0; i.heartbeat()"
    assert guarded(b"", "litert", exec, "\n".join([beat] * 3)) is None
    assert works()


@pytest.mark.parametrize("size", [1 << 30, 1 << 40])
def test_memory_is_limited(monkeypatch, size):
    with monkeypatch.context() as patch:
        patch.setattr(isolation, "MEMORY_BYTES", 1 << 28)
        with pytest.raises(WorkerError, match=r"more memory for the file than 0\.25 GiB"):
            guarded(b"", "litert", bytes, size)
        # A large file may need more.
        assert guarded(bytes(1 << 26), "litert", len, bytes(1 << 28)) == 1 << 28
    assert works()


def test_errors_in_our_words_stay_and_others_are_explained():
    with pytest.raises(ValueError, match=r"^ours$"):
        guarded(b"", "litert", exec, "raise ValueError('ours')")
    with pytest.raises(ValueError, match=r"^tflm cannot execute the file: KeyError: 7$"):
        guarded(b"", "tflm", exec, "raise KeyError(7)")
    odd = """if 1:
    class Odd(Exception):
        def __init__(self, left, right): super().__init__("odd")
    raise Odd(1, 2)"""
    with pytest.raises(ValueError, match="cannot execute the file: RuntimeError: Odd: odd"):
        guarded(b"", "litert", exec, odd)


def test_a_process_that_was_left_in_ruins_is_replaced():
    """A file may damage the memory of its runtime and leave the next one to die of it."""
    assert works()
    mine = "import os, signal; os.kill(os.getpid(), signal.SIGKILL) if os.getpid() == {} else None"
    pid = worker_pid()
    assert guarded(b"", "litert", exec, mine.format(pid)) is None
    assert worker_pid() != pid
    os.kill(worker_pid(), signal.SIGKILL)
    assert works()


def test_an_interrupted_call_does_not_answer_the_next_one(monkeypatch):
    assert works()
    receive = isolation.Worker._receive

    def interrupted(self, runtime, seconds):
        monkeypatch.setattr(isolation.Worker, "_receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(isolation.Worker, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guarded(b"", "litert", len, "mistaken")
    assert works()


def test_threads_take_turns():
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: guarded(b"", "litert", divmod, n, 7), range(40)))
    assert found == [divmod(n, 7) for n in range(40)]


def test_workers_load_no_tensorflow():
    loaded = "{'tensorflow', 'keras'} & set(__import__('sys').modules)"
    for runtime in ("litert", "tflm"):
        assert guarded(b"", runtime, eval, loaded) == set()


def test_what_is_kept_from_calls_makes_room_for_a_new_process():
    pid = worker_pid()
    guarded(b"", "litert", exec, f"import sys; sys.kept = bytearray({worker._KEPT_BYTES} + 1)")
    assert worker_pid() != pid


def test_forked_processes_have_workers_of_their_own():
    program = script(
        """
        import os
        from tflite_export.runtimes.isolation import guarded
        ours = guarded(b"", "litert", os.getpid)
        child = os.fork()
        theirs = guarded(b"", "litert", os.getpid)
        print("child" if child == 0 else "caller", ours == theirs, flush=True)
        if child == 0:
            raise SystemExit
        assert os.waitpid(child, 0)[1] == 0
        assert guarded(b"", "litert", os.getpid) == ours
        """
    )
    printed, errors = program.communicate()
    assert (sorted(printed.splitlines()), errors) == (["caller True", "child False"], "")


@pytest.mark.parametrize("busy", [False, True])
def test_workers_end_with_their_caller(tmp_path, busy):
    """Also when it is killed, whatever they are doing: the lock is free when they have ended."""
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    os.mkfifo(ready)
    program = script(
        """
        import sys
        from tflite_export.runtimes.isolation import guarded
        guarded(b"", "litert", exec, sys.argv[1])
        with open(sys.argv[2], "w") as ready:
            ready.write("ready")
        input()
        """,
        f"""if 1:
        import fcntl, sys
        sys.lock = open({str(lock)!r}, "w")
        fcntl.flock(sys.lock, fcntl.LOCK_EX)
        if {busy}:
            with open({str(ready)!r}, "w") as file:
                file.write("ready")
            sum(range(10**18))
        """,
        str(ready),
    )
    wait_until_told(ready, program.pid)
    assert_lock_ends_with(program, lock)


def test_requests_that_do_not_arrive_are_errors():
    """A function that the other process does not find."""
    request = pickle.dumps((0, worker.serve, ())).replace(b"serve", b"serbe")
    kind, payload = isolation._pool.exchange("litert", request)
    assert kind == isolation.ERROR
    assert isinstance(pickle.loads(payload), AttributeError)
