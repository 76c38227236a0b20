"""Parts of tensors."""

from __future__ import annotations

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import OperatorKind, Shape, register
from tflite_export.graph.shapes import integers, require
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND


def crop(operands: Operands) -> np.ndarray:
    begin, size = (operands.attributes[name] for name in ("begin", "size"))
    inner = [slice(b, b + s) for b, s in zip(begin[1:], size[1:], strict=True)]
    return operands.arrays[0][(slice(None), *inner)]


def strided_slice(operands: Operands) -> np.ndarray:
    limits = zip(*(operands.attributes[name] for name in ("begin", "end", "strides")), strict=True)
    _, *inner = (slice(begin, end, stride) for begin, end, stride in limits)
    return operands.arrays[0][(slice(None), *inner)]


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


SLICE = register(
    OperatorKind(
        "SLICE",
        crop,
        _cropped,
        versions=(2, 4),
        options="SliceOptions",
        attributes={"begin": OPERAND, "size": OPERAND},
        ties=True,
        counts=True,
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
