"""The runtimes that can execute a file, behind one call: integers in, integers out."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export import reference
from tflite_export.isolation import guarded, heartbeat
from tflite_export.reader import StoredModel, StoredTensor, parse, read_bytes, to_graph

#: Integers in, one array (N, ...) a model input; integers out, one array (N, ...) a model output.
Session = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


#: Runtimes of native code in this process, which a damaged file can end.
NATIVE = ("litert", "litert-reference", "tflm")


class RuntimeUnavailableError(RuntimeError):
    """The runtime is not installed; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How to open a file in one runtime.

    Attributes:
        open: file content -> session.
        missing: why it cannot be used here, or None.
    """

    open: Callable[[bytes], Session]
    missing: Callable[[], str | None]


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
            are quantized with the file's own parameters; integers are fed as they are.
        runtime: "litert" (XNNPACK applied), "litert-reference", "tflite-runtime", "tflm" or
            "reference" (the integer reference in NumPy).

    Returns:
        One array (N, ...), or a list where the model has several outputs: float32 if the inputs
        were floats, the file's own integers otherwise.

    Raises:
        ValueError: unknown runtime, or inputs that do not fit the file.
        RuntimeUnavailableError: the runtime is not installed.
    """
    content = model if isinstance(model, bytes) else read_bytes(model)
    stored = parse(content)
    arrays = _ordered(inputs, stored)
    is_float = any(np.issubdtype(array.dtype, np.floating) for array in arrays)
    batches = [
        quantize(array, stored.tensors[index])
        for array, index in zip(arrays, stored.inputs, strict=True)
    ]
    _check_runtime(runtime)
    if runtime in NATIVE:
        outputs = guarded(content, runtime, _run_batches, content, runtime, batches)
    else:
        outputs = _run_batches(content, runtime, batches)
    if is_float:
        outputs = [
            dequantize(array, stored.tensors[index])
            for array, index in zip(outputs, stored.outputs, strict=True)
        ]
    return outputs[0] if len(outputs) == 1 else outputs


def _run_batches(content: bytes, runtime: str, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    return open_session(content, runtime)(batches)


def open_session(content: bytes, runtime: str) -> Session:
    """A session of a runtime by name."""
    _check_runtime(runtime)
    return RUNTIMES[runtime].open(content)


def _check_runtime(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r} is unknown; allowed are {', '.join(RUNTIMES)}")
    reason = RUNTIMES[runtime].missing()
    if reason is not None:
        raise RuntimeUnavailableError(f"runtime {runtime!r} cannot be used here: {reason}")


def zeros(model: StoredModel) -> list[np.ndarray]:
    """One sample of zeros, an array (1, ...) a model input."""
    tensors = [model.tensors[index] for index in model.inputs]
    return [np.zeros(tensor.shape, element_type(tensor)) for tensor in tensors]


def element_type(tensor: StoredTensor) -> np.dtype:
    """Type of a tensor's elements outside of the file.

    Raises:
        ValueError: numpy has no such type.
    """
    try:
        return np.dtype(tensor.type)
    except TypeError:
        raise ValueError(
            f"tensor {tensor.name!r} is {tensor.type}; inputs and outputs must be numbers"
        ) from None


def quantize(values: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """Integers of float values in a tensor's own parameters; integers are only range-checked."""
    dtype = element_type(tensor)
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype)
    info = np.iinfo(dtype)
    if np.issubdtype(values.dtype, np.integer) and values.dtype == dtype:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"input {tensor.name!r} takes {tensor.type} or floats, received {values.dtype}"
        )
    if tensor.scale is None or tensor.zero_point is None:
        return values.astype(dtype)
    scaled = np.round(values.astype(np.float32) / tensor.scale[0]) + tensor.zero_point[0]
    return np.clip(scaled, info.min, info.max).astype(dtype)


def dequantize(integers: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """Float32 values of a tensor's integers; without parameters they are returned as they are."""
    if tensor.scale is None or tensor.zero_point is None:
        return integers
    shifted = integers.astype(np.int64) - tensor.zero_point[0]
    return (shifted * np.float64(tensor.scale[0])).astype(np.float32)


def _ordered(
    inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray], stored: StoredModel
) -> list[np.ndarray]:
    names = stored.input_names
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValueError(f"inputs are named {list(inputs)}, the file takes {list(names)}")
        arrays = [np.asarray(inputs[name]) for name in names]
    elif isinstance(inputs, (list, tuple)):
        arrays = [np.asarray(array) for array in inputs]
    else:
        arrays = [np.asarray(inputs)]
    if len(arrays) != len(names):
        raise ValueError(f"received {len(arrays)} input arrays, the file takes {len(names)}")
    for array, index in zip(arrays, stored.inputs, strict=True):
        tensor = stored.tensors[index]
        if array.ndim != len(tensor.shape) or array.shape[1:] != tensor.shape[1:]:
            raise ValueError(
                f"input {tensor.name!r} takes (N, {', '.join(map(str, tensor.shape[1:]))}), "
                f"received {array.shape}"
            )
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise ValueError(
            f"inputs hold {[len(array) for array in arrays]} samples; need equal, not 0"
        )
    return arrays


def _each_sample(invoke: Session) -> Session:
    """A session from a call that takes one sample: files have batch 1."""

    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        count = len(arrays[0])
        results = []
        for index in range(count):
            heartbeat()
            results.append(invoke([array[index : index + 1] for array in arrays]))
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    return session


def _open_litert(*, reference_kernels: bool) -> Callable[[bytes], Session]:
    def open_file(content: bytes) -> Session:
        return _interpreter_session(litert(content, reference_kernels=reference_kernels))

    return open_file


def litert(content: bytes, *, reference_kernels: bool = False) -> Any:
    """A LiteRT interpreter on one thread, ready to invoke.

    Raises:
        ValueError: LiteRT refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    try:
        interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=resolver, num_threads=1
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"LiteRT refuses the file: {error}") from error
    return interpreter


def _interpreter_session(interpreter: Any) -> Session:
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def invoke(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return _each_sample(invoke)


def _open_tflm(content: bytes) -> Session:
    from tflite_export import tflm

    return _each_sample(tflm.Session(content))


def _open_reference(content: bytes) -> Session:
    graph = to_graph(parse(content))
    names = [tensor for _, tensor in graph.outputs]

    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            tensors = reference.run(graph, arrays)
            return [tensors[name] for name in names]
        except (ArithmeticError, LookupError, MemoryError, TypeError) as error:
            # Shapes and options that contradict each other fail anywhere.
            raise ValueError(
                f"the integer reference cannot execute the file: {type(error).__name__}: {error}"
            ) from error

    return session


_WORKER = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1])
interpreter.allocate_tensors()
inputs = [detail["index"] for detail in interpreter.get_input_details()]
outputs = [detail["index"] for detail in interpreter.get_output_details()]
with np.load(sys.argv[2]) as stored:
    arrays = [stored[name] for name in sorted(stored)]
results = []
for sample in range(len(arrays[0])):
    for index, array in zip(inputs, arrays):
        interpreter.set_tensor(index, array[sample : sample + 1])
    interpreter.invoke()
    results.append([interpreter.get_tensor(index) for index in outputs])
stacked = [np.concatenate(parts) for parts in zip(*results)]
np.savez(sys.argv[3], **{f"{i:03d}": value for i, value in enumerate(stacked)})
"""
#: Environment variable: a Python that has tflite-runtime, which needs numpy < 2.
TFLITE_RUNTIME_PYTHON = "TFLITE_RUNTIME_PYTHON"


def _open_tflite_runtime(content: bytes) -> Session:
    """Sessions in another process: tflite-runtime 2.14 and this package need different numpys."""
    python = os.environ.get(TFLITE_RUNTIME_PYTHON, sys.executable)

    def session(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            model, given, taken = (Path(folder) / name for name in ("m.tflite", "i.npz", "o.npz"))
            model.write_bytes(content)
            named = {f"{index:03d}": array for index, array in enumerate(arrays)}
            np.savez(given, allow_pickle=False, **named)
            command = [python, "-c", _WORKER, str(model), str(given), str(taken)]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            if finished.returncode:
                lines = finished.stderr.strip().splitlines() or ["no message"]
                raise ValueError(f"tflite-runtime refuses the file: {lines[-1]}")
            with np.load(taken) as outputs:
                return [outputs[name] for name in sorted(outputs)]

    return session


def _missing_module(module: str, advice: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        return None if importlib.util.find_spec(module) else advice

    return missing


def _missing_tflite_runtime() -> str | None:
    if os.environ.get(TFLITE_RUNTIME_PYTHON) or importlib.util.find_spec("tflite_runtime"):
        return None
    return (
        "it needs an environment of its own (Python <= 3.11, numpy < 2): install the extra "
        f"'tflite-runtime' there and set {TFLITE_RUNTIME_PYTHON} to its python"
    )


RUNTIMES: dict[str, Runtime] = {
    "litert": Runtime(_open_litert(reference_kernels=False), lambda: None),
    "litert-reference": Runtime(_open_litert(reference_kernels=True), lambda: None),
    "tflite-runtime": Runtime(_open_tflite_runtime, _missing_tflite_runtime),
    "tflm": Runtime(
        _open_tflm, _missing_module("tflite_micro", "install the extra 'microcontroller'")
    ),
    "reference": Runtime(_open_reference, lambda: None),
}
