"""TensorFlow Lite Micro's interpreter on this computer, and the memory that a file needs in it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tflite_export.file.reader import parse
from tflite_export.file.stored import StoredModel
from tflite_export.runtimes import native_messages
from tflite_export.runtimes.isolation import guarded

#: Element sizes in bytes of types that numpy does not know; packed ones are unpacked in the arena.
_PACKED = {"int4": 1, "int2": 1}
#: Of the interpreter itself, and of its description of one tensor or operator. Generous: an arena
#: far too small ends the process instead of raising.
_BASE_BYTES, _BYTES_PER_ENTRY = 1 << 16, 1 << 10
_GROWTH, _ATTEMPTS = 4, 3
_LARGEST_ARENA = 1 << 30
_OUT_OF_MEMORY = re.compile(r"Failed to (resize|allocate)|arena", re.IGNORECASE)
_ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")


@dataclasses.dataclass(frozen=True)
class Arena:
    """Tensor arena of a file in bytes.

    Attributes:
        reused: activations and scratch memory, planned to overlap in time.
        persistent: what stays for the interpreter's life: its tables, kernels' own data, weights
            that were unpacked once.
    """

    reused: int
    persistent: int

    @property
    def total(self) -> int:
        return self.reused + self.persistent


class Session:
    """One file in one interpreter; called with one sample, an array (1, ...) a model input.

    It lives in the process that makes it, which should be a worker.
    """

    def __init__(self, content: bytes) -> None:
        model = parse(content)
        self._interpreter = _interpreter(content, model)
        self._outputs = range(len(model.outputs))

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, array in enumerate(arrays):
            self._interpreter.set_input(array, index)
        with native_messages.captured() as messages:
            try:
                self._interpreter.invoke()
            except RuntimeError as error:
                raise ValueError(_explained(error, messages())) from error
        return [np.array(self._interpreter.get_output(index)) for index in self._outputs]

    def allocations(self) -> list[str]:
        """The interpreter's own account of its arena, after a call."""
        with native_messages.captured() as messages:
            self._interpreter.print_allocations()
            return messages()


def arena_bytes(content: bytes) -> int:
    """Tensor arena that a file needs in TFLM, in bytes; see `arena`."""
    return arena(content).total


def arena(content: bytes) -> Arena:
    """Tensor arena that a file needs in TFLM, as its recording allocator counts it.

    Measured in a worker on this computer, after one inference on zeros. A 32-bit microcontroller
    needs less for its pointers; kernels optimized for it may ask for scratch memory that these do
    not need.

    Raises:
        ValueError: TFLM does not run the file, or dies of it.
    """
    return guarded(content, "tflm", _measured, content)


def _measured(content: bytes) -> Arena:
    model = parse(content)
    session = Session(content)
    tensors = [model.tensors[index] for index in model.inputs]
    session([np.zeros(tensor.shape, tensor.type) for tensor in tensors])
    report = "\n".join(session.allocations())
    sizes = {part: int(size) for part, size in _ARENA.findall(report)}
    if not sizes.keys() >= {"total", "head", "tail"}:
        raise ValueError(f"TFLM does not report its arena in a known form: {report[:200]!r}")
    return Arena(sizes["head"], sizes["total"] - sizes["head"])


def _interpreter(content: bytes, model: StoredModel) -> Any:
    """An interpreter with an arena that is large enough.

    TFLM's own default, ten times the file, is too small for little weights on large images.
    """
    from tflite_micro import runtime

    size = _estimated_bytes(model)
    if size > _LARGEST_ARENA:
        raise ValueError(
            f"the file's tensors need {size} bytes, more than {_LARGEST_ARENA}: it is damaged, or "
            "nothing for a microcontroller"
        )
    for attempt in range(_ATTEMPTS):
        with native_messages.captured() as messages:
            try:
                return runtime.Interpreter.from_bytes(content, arena_size=size)
            except (RuntimeError, ValueError) as error:
                printed = messages()
                out_of_memory = any(_OUT_OF_MEMORY.search(line) for line in printed)
                if not out_of_memory or attempt == _ATTEMPTS - 1:
                    raise ValueError(_explained(error, printed)) from error
        size *= _GROWTH
    raise AssertionError("the loop returns or raises")


def _estimated_bytes(model: StoredModel) -> int:
    """All tensors at once, twice: room for scratch buffers and for unpacked weights."""
    elements = sum(
        math.prod(max(size, 1) for size in tensor.shape) * _element_bytes(tensor.type)
        for tensor in model.tensors
    )
    entries = len(model.tensors) + len(model.operators)
    return 2 * elements + _BASE_BYTES + _BYTES_PER_ENTRY * entries


def _element_bytes(kind: str) -> int:
    return _PACKED.get(kind) or (np.dtype(kind).itemsize if hasattr(np, kind) else 8)


def _explained(error: Exception, printed: list[str]) -> str:
    reason = "; ".join(printed[-2:]) or str(error)
    return f"TFLM refuses the file: {reason}"
