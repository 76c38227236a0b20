"""What callers give to a file and get from it: floats or integers, as the file's own integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_export.file.damage import damaged
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.graph.kinds import is_known, kind_of

#: Elements of one sample of zeros or random numbers.
LARGEST_INPUT = 2**26


def ordered(
    inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray], stored: StoredModel
) -> list[np.ndarray]:
    """One array (N, ...) a model input, in the file's order.

    Raises:
        ValueError: another number of inputs, other names or shapes, no samples, or a file that
            does not take one sample at a time.
    """
    names = stored.input_names
    given: Sequence[Any]
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ValueError(f"inputs are named {list(inputs)}, the file takes {list(names)}")
        given = [inputs[name] for name in names]
    elif isinstance(inputs, (list, tuple)) and not _is_one_array(inputs, stored):
        given = list(inputs)
    else:
        given = [inputs]
    if len(given) != len(names):
        raise ValueError(f"received {len(given)} input arrays, the file takes {len(names)}")
    arrays = [
        _array(values, stored.tensors[index])
        for values, index in zip(given, stored.inputs, strict=True)
    ]
    if not arrays:
        raise ValueError("the file takes no inputs; it has nothing to run on")
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise ValueError(
            f"inputs hold {[len(array) for array in arrays]} samples; need equal, not 0"
        )
    return arrays


def _is_one_array(inputs: Sequence[Any], stored: StoredModel) -> bool:
    """Whether a list holds the numbers of the only input, not one array an input."""
    if len(stored.inputs) != 1 or not inputs:
        return False
    try:
        return np.ndim(inputs) == len(stored.tensors[stored.inputs[0]].shape)
    except ValueError:
        return False


def _array(values: object, tensor: StoredTensor) -> np.ndarray:
    """The samples of one input."""
    where = f"input {tensor.name!r}"
    if not tensor.shape or tensor.shape[0] != 1:
        raise ValueError(
            f"{where} has the shape {tensor.shape}, need batch 1: (1, ...); files are run one "
            "sample at a time"
        )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{where}: the samples differ in shape: {error}") from error
    if array.ndim != len(tensor.shape) or array.shape[1:] != tensor.shape[1:]:
        hint = "; one sample needs an axis in front, array[None]"
        raise ValueError(
            f"{where} takes (N, {', '.join(map(str, tensor.shape[1:]))}), received {array.shape}"
            f"{hint if array.shape == tensor.shape[1:] else ''}"
        )
    is_image = array.dtype == np.uint8 and tensor.type in ("int8", "int16")
    # Nobody's integers of such a file: pixels, as the model was trained on them.
    return array.astype(np.float32) if is_image and tensor.scale is not None else array


def zeros(model: StoredModel) -> list[np.ndarray]:
    """One sample of zeros, an array (1, ...) a model input."""
    tensors = [model.tensors[index] for index in model.inputs]
    return [np.zeros(checked_shape(tensor), element_type(tensor)) for tensor in tensors]


def checked_shape(tensor: StoredTensor) -> tuple[int, ...]:
    """Shape of an input that we make samples of, once it is known to fit into memory.

    Raises:
        ValueError: open sizes, or more elements than `LARGEST_INPUT`.
    """
    elements = math.prod(tensor.shape)
    if min(tensor.shape, default=1) < 1 or elements > LARGEST_INPUT:
        raise ValueError(
            f"input {tensor.name!r} is {tensor.shape}; samples are made of at most "
            f"{LARGEST_INPUT} elements and of fixed sizes"
        )
    return tensor.shape


def integer_range(model: StoredModel, index: int) -> tuple[int, int]:
    """Lowest and highest integer that an input takes: of its type, or that choose from a table."""
    info = np.iinfo(element_type(model.tensors[index]))
    low, high = int(info.min), int(info.max)
    for operator in model.operators:
        indexes = kind_of(operator.kind).indexes if is_known(operator.kind) else {}
        for role, (table, axis) in indexes.items():
            place = operator.operand(table)
            if operator.operand(role) == index and place is not None:
                low, high = 0, min(high, model.tensors[place].shape[axis] - 1)
    return low, high


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


def taken(values: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """What a file takes of the samples of one input, see `integers`; floats where it takes floats.

    Raises:
        ValueError: see `integers`; or a file whose parameters say nothing.
    """
    dtype, where = element_type(tensor), f"input {tensor.name!r}"
    if not np.issubdtype(dtype, np.integer):
        if not np.issubdtype(values.dtype, np.number) and values.dtype != dtype:
            raise ValueError(f"{where} takes {tensor.type}, received {values.dtype}")
        return values.astype(dtype)
    scale = _only_scale(tensor, where)
    return integers(values, where=where, dtype=dtype, scale=scale, zero_point=tensor.offset)


def _only_scale(tensor: StoredTensor, where: str) -> np.float32 | None:
    """Scale of an input or output, None where it is not quantized."""
    if tensor.scale is None:
        return None
    if tensor.scale.size != 1 or not (np.isfinite(tensor.scale[0]) and tensor.scale[0] > 0):
        raise damaged(
            f"{where} has the scales {tensor.scale.tolist()[:3]}, need one, positive and finite"
        )
    return tensor.scale[0]


def integers(
    values: np.ndarray,
    *,
    where: str,
    dtype: np.dtype,
    scale: np.float32 | None,
    zero_point: int,
) -> np.ndarray:
    """Integers of the samples of one input.

    Floats are real values: they are rounded in the input's own parameters and saturate. Integers
    of the input's type are the file's own. Those of another type could be either, and are refused
    but where both are the same, as for tokens: none may lie outside of the input's type then.

    Args:
        where: names the input in errors.
        scale: of the input, None where it is not quantized: floats must be integers then.

    Raises:
        ValueError: NaN, integers of another type or out of range, or what is no number.
    """
    if values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    if np.issubdtype(values.dtype, np.floating):
        real = values.astype(np.float64)
        if np.isnan(real).any():
            first = int(np.argwhere(np.isnan(real))[0][0])
            raise ValueError(f"{where}: sample {first} holds NaN, which no integer stands for")
        if scale is None:
            return _exactly(real, where, dtype)
        rounded = np.round(real.astype(np.float32) / scale).astype(np.float64) + zero_point
        return np.clip(rounded, limits.min, limits.max).astype(dtype)
    is_itself = scale is None or (scale == 1.0 and zero_point == 0)
    if values.dtype.kind != dtype.kind or not is_itself:
        raise ValueError(
            f"{where} takes {dtype.name} or floats, received {values.dtype}; give floats, which "
            "are quantized with the file's own scale, as array.astype('float32'), or the file's "
            f"own integers in their type, as array.astype({dtype.name!r})"
        )
    return _exactly(values, where, dtype)


def _exactly(values: np.ndarray, where: str, dtype: np.dtype) -> np.ndarray:
    """The same numbers in another type."""
    limits = np.iinfo(dtype)
    odd = (values < limits.min) | (values > limits.max) | (values != np.floor(values))
    if odd.any():
        raise ValueError(
            f"{where} takes {dtype.name}, integers from {limits.min} to {limits.max}, received "
            f"{values[odd].flat[0]}; floats are quantized with the file's scale where it has one"
        )
    return values.astype(dtype)


def dequantized(values: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """Float32 values of a tensor's integers; without parameters they are returned as they are."""
    scale = _only_scale(tensor, f"output {tensor.name!r}")
    if scale is None or not np.issubdtype(values.dtype, np.integer):
        return values
    shifted = values.astype(np.int64) - tensor.offset
    return (shifted * np.float64(scale)).astype(np.float32)
