"""TFLM's interpreter: memory for large images, refusals that say why, the arena measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import random_graph
from tflite_export.file.writer import write
from tflite_export.runtimes import tflm
from tflite_export.runtimes.sessions import open_session

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="tflite-micro is not installed (extra 'microcontroller')",
)
IMAGE = (1, 64, 96, 8)


def flattened_image() -> bytes:
    """A file of a kilobyte with two activations of 48 kilobytes."""
    size = int(np.prod(IMAGE))
    source = one.activation("x", IMAGE, "int8", 0.1)
    output = one.activation("y", (1, size), "int8", 0.1)
    return write(one.graph_of("RESHAPE", [source], output, {"new_shape": (1, size)}))


def test_small_files_with_large_activations_run():
    values = np.random.default_rng(0).integers(-128, 128, (2, *IMAGE[1:])).astype(np.int8)
    (outputs,) = open_session(flattened_image(), "tflm")([values])
    np.testing.assert_array_equal(outputs, values.reshape(2, -1))


def test_the_arena_holds_the_activations_and_is_enough():
    from tflite_micro import runtime

    content = flattened_image()
    size = tflm.arena_bytes(content)
    # Input and output do not share memory.
    assert 2 * np.prod(IMAGE) < size < 2.1 * np.prod(IMAGE)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=size + 128)
    interpreter.set_input(np.zeros(IMAGE, np.int8), 0)
    interpreter.invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(content, arena_size=size - 128)


def test_the_arena_grows_until_it_is_enough(monkeypatch):
    monkeypatch.setattr(tflm, "_estimated_bytes", lambda model: 20_000)
    assert tflm._measured(flattened_image()).total > np.prod(IMAGE)


def test_an_arena_that_stays_too_small_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(tflm, "_estimated_bytes", lambda model: 20_000)
    monkeypatch.setattr(tflm, "_ATTEMPTS", 1)
    with pytest.raises(ValueError, match="TFLM refuses the file: Failed to resize buffer"):
        tflm._measured(flattened_image())


def test_what_tflm_prints_becomes_the_error(capfd):
    graph = random_graph("HARD_SWISH", "int16", 0)
    with pytest.raises(ValueError, match="TFLM refuses the file: Unsupported type INT16"):
        open_session(write(graph), "tflm")(one.random_samples(graph))
    assert capfd.readouterr().err == ""


def test_no_interpreter_lives_in_this_process():
    """All that measures or runs a file does it in a worker, which nothing here can patch."""
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:] = {sys.path!r}
        from tests.tflite_export.runtimes.test_tflm import flattened_image
        from tflite_export.packaging import memory_budget
        from tflite_export.runtimes import tflm
        from tflite_export.runtimes.latency import latency
        content = flattened_image()
        assert tflm.arena_bytes(content) == memory_budget(content).arena.total
        latency(content, runtime="tflm", runs=1)
        print(any(name.startswith("tflite_micro") for name in sys.modules))
        """
    )
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "False\n"
