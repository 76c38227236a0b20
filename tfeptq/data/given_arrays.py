"""Arrays as people have them: what can be read as numbers, and why the rest cannot."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfeptq.data.later import Later


def as_array(values: Any, where: str) -> np.ndarray:
    """Real numbers as an array, not copied where they are one.

    Args:
        values: an array, tensor, data frame or nested lists.
        where: what they are, to begin a sentence with.

    Raises:
        ValueError: no numbers, unequal parts, or values that are masked.
    """
    if isinstance(values, Later):
        values = values.read()
    if isinstance(values, (str, bytes, os.PathLike)):
        raise ValueError(
            f"{where} is the path or text {values!r:.60}; load its arrays and pass those"
        )
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{where} has masked values; fill them or leave their samples out")
    try:
        array = np.asarray(values)
    except Exception as error:
        if isinstance(error, ValueError) and isinstance(values, (list, tuple)):
            raise ValueError(
                f"{where} is a {type(values).__name__} of parts of unequal shapes: make them "
                "equal, for example with keras.utils.pad_sequences"
            ) from error
        # Tensors of other libraries fail with errors of their own: on a GPU, with gradients.
        raise ValueError(
            f"{where} is a {type(values).__name__} that is no array of numbers: {_reason(error)}"
        ) from error
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{where} has dtype {array.dtype}; numbers are needed{_way_out(array)}")
    return array


def _reason(error: Exception) -> str:
    """What others say, in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _way_out(array: np.ndarray) -> str:
    if array.dtype.kind != "O":
        return ""
    if array.size and isinstance(array.flat[0], Mapping):
        return ": it holds dictionaries; pass one dictionary {input name: array of all samples}"
    return ": parts of equal shapes, then array.astype('float32')"


def check_shape(
    array: np.ndarray, expected: Sequence[int | None], where: str, *, is_batch: bool = False
) -> None:
    """Raises ValueError unless the array is (samples, *expected), with what was probably meant.

    Args:
        is_batch: it comes from what should yield batches, and may be empty.
    """
    sizes = tuple(expected)
    if array.ndim == 0 or not _fits(array.shape[1:], sizes):
        wanted = ", ".join("steps" if size is None else str(size) for size in ("samples", *sizes))
        raise ValueError(
            f"{where} has shape {array.shape}; expected ({wanted})"
            f"{_hint(array.shape, sizes, is_batch=is_batch)}"
        )
    if not len(array) and not is_batch:
        raise ValueError(f"{where} is empty")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether sizes are those expected; None stands for any number of steps."""
    return len(shape) == len(expected) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _hint(shape: tuple[int, ...], expected: tuple[int | None, ...], *, is_batch: bool) -> str:
    """What makes the one shape the other, if something simple does."""
    if shape == expected and is_batch:
        return ": these are single samples; batch them, as dataset.batch(32) does"
    if shape == expected:
        return ": one sample needs an axis in front, array[None]"
    one = shape[1:]
    if len(expected) > 1 and one == (expected[-1], *expected[:-1]):
        return ": channels are last here, numpy.moveaxis(array, 1, -1)"
    if (*one, 1) == expected:
        return ": array[..., None] adds the last axis"
    if one == (*expected, 1):
        return ": array[..., 0] drops the last axis"
    elements = math.prod(size for size in expected if size is not None)
    if len(one) == 1 and None not in expected and one[0] == elements > 0:
        return f": array.reshape({(-1, *expected)}) makes it so"
    if len(shape) == len(expected) + 2 and shape[2:] == expected:
        return ": batches in an array, array.reshape((-1, *array.shape[2:]))"
    return ""
