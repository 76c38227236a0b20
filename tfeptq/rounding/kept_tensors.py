"""Tensors of all samples that a training reads again and again: in memory, or in a file.

What is mapped into memory counts as memory of the process, however it is read: files are read row
by row instead, and the system keeps of them what it has room for.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

#: float32 numbers in a line of the cache.
_LINE = 16
#: Of a call of the system; Linux and macOS take as many.
_MOST_BUFFERS = 1024


class KeptTensors(Protocol):
    """Several float32 tensors, each with a row a sample."""

    def write(self, begin: int, tensors: Sequence[tf.Tensor]) -> None:
        """Keeps the rows of a batch, whose first sample has the number `begin`."""

    def rows(self, indices: tf.Tensor) -> list[tf.Tensor]:
        """Of the samples with these numbers, int32 (batch,); also in a `tf.data` pipeline."""


class InMemory:
    """Tensors of TensorFlow.

    Args:
        shapes: with the number of samples in front.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self._arrays = [np.empty(shape, np.float32) for shape in shapes]
        self._tensors: list[tf.Tensor] = []

    def write(self, begin: int, tensors: Sequence[tf.Tensor]) -> None:
        for whole, part in zip(self._arrays, tensors, strict=True):
            whole[begin : begin + len(part)] = part

    def rows(self, indices: tf.Tensor) -> list[tf.Tensor]:
        # One after the other: at no time is everything there twice. Not within the graph of the
        # pipeline that asks.
        with tf.init_scope():
            while self._arrays:
                self._tensors.append(tf.constant(self._arrays.pop(0)))
        return [tf.gather(tensor, indices) for tensor in self._tensors]


class InFile:
    """A file without a name, gone with this object; all that belongs to a sample lies together.

    Args:
        shapes: with the number of samples in front.
        folder: on whose disk; None: that of temporary files.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], folder: Path | None) -> None:
        self._shapes = [shape[1:] for shape in shapes]
        self._row_bytes = 4 * sum(map(math.prod, self._shapes))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def write(self, begin: int, tensors: Sequence[tf.Tensor]) -> None:
        rows = np.concatenate([np.reshape(part, (len(part), -1)) for part in tensors], axis=1)
        self._file.seek(begin * self._row_bytes)
        self._file.write(rows.data)
        self._file.flush()

    def rows(self, indices: tf.Tensor) -> list[tf.Tensor]:
        types = [tf.float32] * len(self._shapes)
        found = tf.numpy_function(self._read, [indices], types, stateful=False)
        return [
            tf.ensure_shape(tensor, [indices.shape[0], *shape])
            for tensor, shape in zip(found, self._shapes, strict=True)
        ]

    def _read(self, numbers: np.ndarray) -> list[np.ndarray]:
        result = [_aligned((len(numbers), *shape)) for shape in self._shapes]
        # All tensors of a row by one call of the system, as many as it takes at once.
        starts = range(0, len(result), _MOST_BUFFERS)
        lots = [result[start : start + _MOST_BUFFERS] for start in starts]
        for row, number in enumerate(numbers):
            begin = int(number) * self._row_bytes
            for lot in lots:
                parts = [array[row : row + 1].data for array in lot]
                begin += os.preadv(self._file.fileno(), parts, begin)
            if begin != (int(number) + 1) * self._row_bytes:
                raise OSError(f"the file of the float model's tensors ends within sample {number}")
        return result


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array that TensorFlow takes without a copy, as it begins a line of the cache."""
    values = np.empty(math.prod(shape) + _LINE, np.float32)
    begin = -values.ctypes.data // values.itemsize % _LINE
    return values[begin : begin + math.prod(shape)].reshape(shape)
