"""tflite-runtime 2.14, the last of its name, in a Python of its own: it needs numpy < 2.

That Python loads this module and `isolation`, and nothing else of this package: both keep to the
standard library and numpy. Arrays cross between the two numpys as .npz files in memory.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from tflite_export.runtimes.isolation import TFLITE_RUNTIME_PYTHON, guarded, heartbeat

NAME = "tflite-runtime"


def missing() -> str | None:
    """Why it cannot be used here, or None."""
    if os.environ.get(TFLITE_RUNTIME_PYTHON) or importlib.util.find_spec("tflite_runtime"):
        return None
    return (
        "it needs an environment of its own (Python <= 3.11, numpy < 2): install the extra "
        f"'tflite-runtime' there and set {TFLITE_RUNTIME_PYTHON} to its python"
    )


def open_file(content: bytes) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A session: arrays (N, ...), one a model input, to arrays (N, ...), one a model output."""

    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return _unpacked(guarded(content, NAME, _run_there, content, _packed(arrays)))

    return session


def _run_there(content: bytes, packed: bytes) -> bytes:
    from tflite_runtime.interpreter import Interpreter

    # This also runs under Python 3.9, whose `zip` is never strict.
    arrays = _unpacked(packed)
    try:
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        inputs = [entry["index"] for entry in interpreter.get_input_details()]
        outputs = [entry["index"] for entry in interpreter.get_output_details()]
        results = []
        for sample in range(len(arrays[0])):
            heartbeat()
            for index, array in zip(inputs, arrays):  # noqa: B905
                interpreter.set_tensor(index, array[sample : sample + 1])
            interpreter.invoke()
            results.append([interpreter.get_tensor(index) for index in outputs])
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"tflite-runtime refuses the file: {message}") from error
    return _packed([np.concatenate(parts) for parts in zip(*results)])  # noqa: B905


def _packed(arrays: Sequence[np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def _unpacked(packed: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(packed)) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]
