"""Operators that move integers and leave them as they are."""

from __future__ import annotations

import math

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.shapes import axis_of, integers, require
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND, UNFUSED


def reshape(operands: Operands) -> np.ndarray:
    values = operands.arrays[0]
    return values.reshape(len(values), *operands.attributes["new_shape"][1:])


def transpose(operands: Operands) -> np.ndarray:
    return operands.arrays[0].transpose(operands.attributes["permutation"])


def pad(operands: Operands) -> np.ndarray:
    amounts = operands.attributes["paddings"]
    fill = operands.output.quantization.zero_point
    return np.pad(operands.arrays[0], amounts, constant_values=fill)


def crop(operands: Operands) -> np.ndarray:
    begin, size = (operands.attributes[name] for name in ("begin", "size"))
    inner = [slice(b, b + s) for b, s in zip(begin[1:], size[1:], strict=True)]
    return operands.arrays[0][(slice(None), *inner)]


def strided_slice(operands: Operands) -> np.ndarray:
    limits = zip(*(operands.attributes[name] for name in ("begin", "end", "strides")), strict=True)
    _, *inner = (slice(begin, end, stride) for begin, end, stride in limits)
    return operands.arrays[0][(slice(None), *inner)]


def concatenation(operands: Operands) -> np.ndarray:
    count = max(len(array) for array in operands.arrays)
    arrays = [np.broadcast_to(a, (count, *a.shape[1:])) for a in operands.arrays]
    return np.concatenate(arrays, axis=operands.attributes["axis"])


def _concatenated(case: Case) -> Shape:
    first = case.shapes[0]
    axis = axis_of(case.attributes["axis"], len(first))
    for shape in case.shapes:
        rest = (*shape[:axis], *shape[axis + 1 :])
        require(rest == (*first[:axis], *first[axis + 1 :]), f"{shape} beside {first}")
    return (*first[:axis], sum(shape[axis] for shape in case.shapes), *first[axis + 1 :])


def _reshaped(case: Case) -> Shape:
    (given,) = case.shapes
    sizes = integers(case.attributes["new_shape"], None, "the new shape", least=-1)
    total, known = math.prod(given), math.prod(size for size in sizes if size != -1)
    open_sizes = sizes.count(-1)
    require(open_sizes <= 1 and known > 0 and total % known == 0, f"{given} as {sizes}")
    require(open_sizes == 1 or known == total, f"{given} as {sizes}")
    return tuple(total // known if size == -1 else size for size in sizes)


def _transposed(case: Case) -> Shape:
    (given,) = case.shapes
    order, rank = list(case.attributes["permutation"]), len(given)
    require(sorted(order) == list(range(rank)), f"permutation {order} of {rank} dimensions")
    return tuple(given[axis] for axis in order)


def _padded(case: Case) -> Shape:
    (given,) = case.shapes
    amounts = [integers(pair, 2, "padding") for pair in case.attributes["paddings"]]
    require(len(amounts) == len(given), f"{len(amounts)} paddings of {given}")
    return tuple(
        before + size + after for size, (before, after) in zip(given, amounts, strict=True)
    )


def _cropped(case: Case) -> Shape:
    (given,) = case.shapes
    begins = integers(case.attributes["begin"], len(given), "begin")
    sizes = integers(case.attributes["size"], len(given), "size", least=-1)
    taken = [
        total - begin if size == -1 else size
        for total, begin, size in zip(given, begins, sizes, strict=True)
    ]
    for total, begin, size in zip(given, begins, taken, strict=True):
        require(size >= 1 and begin + size <= total, f"{size} from {begin} on of {total}")
    return tuple(taken)


def _strided(case: Case) -> Shape:
    (given,) = case.shapes
    begins = integers(case.attributes["begin"], len(given), "begin")
    ends = integers(case.attributes["end"], len(given), "end", least=1)
    strides = integers(case.attributes["strides"], len(given), "strides", least=1)
    for size, begin, end in zip(given, begins, ends, strict=True):
        require(begin < end <= size, f"{begin} to {end} of {size}")
    return tuple(
        -(-(end - begin) // stride)
        for begin, end, stride in zip(begins, ends, strides, strict=True)
    )


CONCATENATION = register(
    OperatorKind(
        "CONCATENATION",
        concatenation,
        _concatenated,
        versions=(2, 3),
        options="ConcatenationOptions",
        attributes={"axis": Attribute("axis")},
        required=UNFUSED,
        roles=("parts",),
        repeats=True,
        ties=True,
    )
)
RESHAPE = register(
    OperatorKind(
        "RESHAPE",
        reshape,
        _reshaped,
        versions=(1, 1),
        options="ReshapeOptions",
        attributes={"new_shape": OPERAND},
        ties=True,
    )
)
TRANSPOSE = register(
    OperatorKind(
        "TRANSPOSE",
        transpose,
        _transposed,
        versions=(2, 5),
        options="TransposeOptions",
        attributes={"permutation": OPERAND},
        ties=True,
    )
)
PAD = register(
    OperatorKind(
        "PAD",
        pad,
        _padded,
        versions=(2, 3),
        options="PadOptions",
        attributes={"paddings": OPERAND},
        ties=True,
    )
)
SLICE = register(
    OperatorKind(
        "SLICE",
        crop,
        _cropped,
        versions=(2, 4),
        options="SliceOptions",
        attributes={"begin": OPERAND, "size": OPERAND},
        ties=True,
    )
)
STRIDED_SLICE = register(
    OperatorKind(
        "STRIDED_SLICE",
        strided_slice,
        _strided,
        versions=(2, 2),
        options="StridedSliceOptions",
        attributes={"begin": OPERAND, "end": OPERAND, "strides": OPERAND},
        required={
            "beginMask": 0,
            "endMask": 0,
            "ellipsisMask": 0,
            "newAxisMask": 0,
            "shrinkAxisMask": 0,
        },
        ties=True,
    )
)
