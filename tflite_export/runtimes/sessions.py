"""The runtimes that can execute a file, behind one call: integers in, integers out."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tflite_export.file.as_graph import to_graph
from tflite_export.file.damage import names_damage, names_path
from tflite_export.file.ends import dequantized, ordered, taken
from tflite_export.file.reader import content_of, parse
from tflite_export.graph.operand_rules import INDEX
from tflite_export.graph.validation import validated
from tflite_export.near_names import require_known
from tflite_export.runtimes import old_runtime, reference
from tflite_export.runtimes.isolation import TFLITE_RUNTIME_PYTHON, guarded, heartbeat, in_worker
from tflite_export.runtimes.reference_work import samples_at_once

__all__ = [
    "NATIVE",
    "RUNTIMES",
    "TFLITE_RUNTIME_PYTHON",
    "Runtime",
    "RuntimeUnavailableError",
    "Session",
    "open_session",
    "run",
]

#: Integers in, one array (N, ...) a model input; integers out, one array (N, ...) a model output.
Session = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
#: What is made of a session and samples.
Work = Callable[[Session, Sequence[np.ndarray]], list[np.ndarray]]

#: Runtimes of native code, which run in worker processes of this Python.
NATIVE = ("litert", "litert-reference", "tflm")
#: So many bytes of inputs go to a worker at a time: what comes back may be much more.
_CHUNK_BYTES = 8 << 20


class RuntimeUnavailableError(RuntimeError):
    """The runtime is not installed; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How to open a file in one runtime.

    Attributes:
        open: file content -> session; that of native code in the process that opens it.
        missing: why it cannot be used here, or None.
    """

    open: Callable[[bytes], Session]
    missing: Callable[[], str | None]


@names_path
def run(
    model: str | Path | bytes,
    inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
    *,
    runtime: str = "litert",
) -> np.ndarray | list[np.ndarray]:
    """Runs a file on any number of samples.

    Args:
        model: path or content of a `.tflite` file with batch 1.
        inputs: one array (N, ...) a model input, alone, in order, or by signature name. Floats
            are quantized with the file's own parameters. Integers of the type that the file takes
            are its own and fed as they are; uint8 pixels of an int8 or int16 file are values, as
            floats are; any other type is refused, as it could mean either. Inputs that number
            rows of tables (int32) take numbers of either kind.
        runtime: "litert" (XNNPACK applied), "litert-reference", "tflite-runtime", "tflm" or
            "reference" (the integer reference in NumPy).

    Returns:
        One array (N, ...), or a list where the model has several outputs: float32 if the inputs
        were floats, or all number rows; the file's own integers otherwise.

    Raises:
        ValueError: unknown runtime, a damaged file, inputs that do not fit the file, or a runtime
            that does not execute it.
        RuntimeUnavailableError: the runtime is not installed.

    Example:
        >>> tflite_export.run("m.tflite", samples[:3]).shape
        (3, 2)
        >>> tflite_export.run("m.tflite", np.zeros((1, 4), np.int8), runtime="reference").dtype
        dtype('int8')
    """
    _check_runtime(runtime)
    content = content_of(model)
    stored = parse(content)
    arrays = ordered(inputs, stored)
    # Numbers of rows are whole in either case.
    telling = [
        array
        for array, index in zip(arrays, stored.inputs, strict=True)
        if stored.tensors[index].type != INDEX
    ]
    is_float = not telling or any(np.issubdtype(array.dtype, np.floating) for array in telling)
    batches = [
        taken(array, stored.tensors[index])
        for array, index in zip(arrays, stored.inputs, strict=True)
    ]
    outputs = open_session(content, runtime)(batches)
    if is_float:
        outputs = [
            dequantized(array, stored.tensors[index])
            for array, index in zip(outputs, stored.outputs, strict=True)
        ]
    return outputs[0] if len(outputs) == 1 else outputs


def open_session(content: bytes, runtime: str) -> Session:
    """A session of a runtime by name; native ones run in a worker, and refuse files when called.

    Raises:
        ValueError: unknown runtime, or the integer reference does not know the file's operators.
        RuntimeUnavailableError: the runtime is not installed.
    """
    _check_runtime(runtime)
    if runtime in NATIVE and not in_worker():
        return functools.partial(_in_worker, _called, content, runtime)
    return RUNTIMES[runtime].open(content)


def with_session(
    work: Work, content: bytes, runtime: str, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What a function makes of a session and some samples; both are in the worker of native ones.

    Args:
        work: a function that can be pickled; it may call the session again and again.
        arrays: (N, ...) each; what is returned has the same axis.
    """
    _check_runtime(runtime)
    if runtime in NATIVE and not in_worker():
        return _in_worker(work, content, runtime, arrays)
    return _opened(work, content, runtime, arrays)


def _check_runtime(runtime: str) -> None:
    require_known("runtime", runtime, tuple(RUNTIMES))
    reason = RUNTIMES[runtime].missing()
    if reason is not None:
        raise RuntimeUnavailableError(f"runtime {runtime!r} cannot be used here: {reason}")


def _in_worker(
    work: Work, content: bytes, runtime: str, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Sends the samples to a worker, some at a time."""
    count = len(arrays[0])
    size = max(sum(array.nbytes for array in arrays) // count, 1)
    step = max(_CHUNK_BYTES // size, 1)
    parts = [
        guarded(
            content, runtime, _opened, work, content, runtime, [a[i : i + step] for a in arrays]
        )
        for i in range(0, count, step)
    ]
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _opened(
    work: Work, content: bytes, runtime: str, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    return work(RUNTIMES[runtime].open(content), arrays)


def _called(session: Session, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return session(arrays)


def _each_sample(invoke: Session) -> Session:
    """A session from a call that takes one sample: files have batch 1."""

    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        results = []
        for index in range(len(arrays[0])):
            heartbeat()
            results.append(invoke([array[index : index + 1] for array in arrays]))
        # A scalar, as files of others have them, is one number a sample.
        return [
            np.concatenate([np.atleast_1d(part) for part in parts])
            for parts in zip(*results, strict=True)
        ]

    return session


def _open_litert(*, reference_kernels: bool) -> Callable[[bytes], Session]:
    def open_file(content: bytes) -> Session:
        from tflite_export.runtimes import litert

        return _each_sample(litert.Session(content, reference_kernels=reference_kernels))

    return open_file


def _open_tflm(content: bytes) -> Session:
    from tflite_export.runtimes import tflm

    return _each_sample(tflm.Session(content))


def _open_reference(content: bytes) -> Session:
    graph = validated(to_graph(parse(content)))
    names = [tensor for _, tensor in graph.outputs]
    step = samples_at_once(graph)

    @names_damage
    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        parts = [
            reference.run(graph, [array[begin : begin + step] for array in arrays])
            for begin in range(0, len(arrays[0]), step)
        ]
        return [np.concatenate([part[name] for part in parts]) for name in names]

    return session


def _missing_module(module: str, advice: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        return None if importlib.util.find_spec(module) else advice

    return missing


RUNTIMES: dict[str, Runtime] = {
    "litert": Runtime(_open_litert(reference_kernels=False), lambda: None),
    "litert-reference": Runtime(_open_litert(reference_kernels=True), lambda: None),
    "tflite-runtime": Runtime(old_runtime.open_file, old_runtime.missing),
    "tflm": Runtime(
        _open_tflm, _missing_module("tflite_micro", "install the extra 'microcontroller'")
    ),
    "reference": Runtime(_open_reference, lambda: None),
}
