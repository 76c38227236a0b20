"""Programs of others: limits of time and memory, and an end with the caller."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest

from tests.tflite_export.runtimes.processes import (
    assert_lock_ends_with,
    script,
    wait_until_told,
)
from tflite_export.runtimes import programs
from tflite_export.runtimes.programs import run_program


def python(text: str, *arguments: str, **options) -> tuple[int, str, str]:
    command = [sys.executable, "-c", text, *arguments]
    done = run_program(command, name="Python", **{"seconds": 120.0, **options})
    return done.returncode, done.stdout, done.stderr


def test_a_program_gets_its_arguments_and_its_words_and_ending_come_back():
    text = "import sys; print(sys.argv[1:]); print('no', file=sys.stderr); sys.exit(3)"
    assert python(text, "a b", "ü") == (3, "['a b', 'ü']\n", "no\n")
    assert python("import os; os.abort()")[0] == -6


def test_a_missing_program_is_a_word_of_ours():
    done = run_program(["no-such-program"], name="it", seconds=120.0)
    assert done.returncode == 1
    assert done.stderr == "no-such-program: No such file or directory\n"


def test_memory_is_limited_and_a_larger_file_may_have_more(monkeypatch):
    size = 1 << 30
    monkeypatch.setattr(programs, "MEMORY_BYTES", 0)
    monkeypatch.setattr(programs, "OWN_BYTES", size)
    code, _, complained = python(f"bytes({size})")
    assert code == 1
    assert complained.splitlines()[-1] == "MemoryError"
    assert python(f"bytes({size})", file_bytes=size) == (0, "", "")


#: Holds a lock in a process that it has started, says so in a pipe and never ends.
ENDLESS = """if 1:
    import fcntl, os, subprocess, sys
    file = open(sys.argv[1], "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    child = subprocess.Popen(
        [sys.executable, "-c", "sum(range(10**18))"], pass_fds=[file.fileno()]
    )
    file.close()
    with open(sys.argv[2], "w") as ready:
        ready.write("ready")
    child.wait()
"""


def test_what_does_not_end_is_ended_with_what_it_has_started(tmp_path, monkeypatch):
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    os.mkfifo(ready)
    wait = subprocess.Popen.wait

    def late(process, timeout=None):
        if timeout is None:
            return wait(process)
        wait_until_told(ready, process.pid)
        raise subprocess.TimeoutExpired("it", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    with pytest.raises(ValueError, match=r"^Python does not finish within 120 s$"):
        python(ENDLESS, str(lock), str(ready))
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_programs_end_with_their_caller(tmp_path):
    """Also when it is killed: the lock is free when all that hold it have ended."""
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    os.mkfifo(ready)
    caller = script(
        """
        import sys
        from tflite_export.runtimes.programs import run_program
        run_program([sys.executable, "-c", *sys.argv[1:]], name="it", seconds=3600)
        """,
        ENDLESS,
        str(lock),
        str(ready),
    )
    wait_until_told(ready, caller.pid)
    assert_lock_ends_with(caller, lock)
