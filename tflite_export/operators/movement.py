"""Operators that move integers and leave them as they are."""

from __future__ import annotations

import numpy as np

from tflite_export.operators.operands import Operands


def reshape(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    return values.reshape(len(values), *operands.operator.attributes["new_shape"][1:])


def transpose(operands: Operands) -> np.ndarray:
    return operands.arrays[0].transpose(operands.operator.attributes["permutation"])


def pad(operands: Operands) -> np.ndarray:
    amounts = operands.operator.attributes["paddings"]
    fill = operands.output.quantization.zero_point
    return np.pad(operands.arrays[0], amounts, constant_values=fill)


def crop(operands: Operands) -> np.ndarray:
    begin, size = (operands.operator.attributes[name] for name in ("begin", "size"))
    inner = [slice(b, b + s) for b, s in zip(begin[1:], size[1:], strict=True)]
    return operands.arrays[0][(slice(None), *inner)]


def concatenation(operands: Operands) -> np.ndarray:
    count = max(len(array) for array in operands.arrays)
    arrays = [np.broadcast_to(a, (count, *a.shape[1:])) for a in operands.arrays]
    return np.concatenate(arrays, axis=operands.operator.attributes["axis"])
