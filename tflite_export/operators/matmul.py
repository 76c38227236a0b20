"""Products of two computed matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tflite_export.graph import fixed_point, limits
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.proofs import exceeding, results, said, shifted
from tflite_export.graph.shapes import require
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import RESCALED_BY_XNNPACK

#: Sums of int16 products are int64, of which the multiplier takes 48 bits.
_ACCUMULATOR = {"int8": limits.INT32, "int16": 2**47 - 1}


def batch_matmul(operands: Operands) -> np.ndarray:
    """Products of the last two dimensions; those before broadcast."""
    left, right = (
        _turned(operands.centred(index).astype(np.float64), is_turned)
        for index, is_turned in enumerate(_turns(operands))
    )
    sums = np.matmul(left, right).astype(np.int64)
    real = _multiplier(operands)
    if operands.output.dtype == "int16":
        return operands.finished(fixed_point.multiply_wide(sums, real))
    return operands.finished(fixed_point.multiply(fixed_point.wrapped(sums), real))


def _turned(values: np.ndarray, is_turned: bool) -> np.ndarray:
    return np.swapaxes(values, -1, -2) if is_turned else values


def _turns(case: Case) -> tuple[bool, bool]:
    return bool(case.attributes["adj_x"]), bool(case.attributes["adj_y"])


def _multiplier(case: Case) -> np.float64:
    # The kernel's product of scales is a float32 one.
    left, right = (tensor.quantization.scale[0] for tensor in case.inputs)
    return np.float64(left * right) / case.output_scale


def _matrices(case: Case) -> list[Shape]:
    """Last two dimensions of both operands as they are multiplied."""
    shapes = [shape[-2:] for shape in case.shapes]
    return [
        shape[::-1] if turn else shape for shape, turn in zip(shapes, _turns(case), strict=True)
    ]


def _shape(case: Case) -> Shape:
    require(all(len(shape) >= 2 for shape in case.shapes), f"{case.shapes} are no matrices")
    (rows, depth), (other_depth, columns) = _matrices(case)
    require(depth == other_depth, f"{case.shapes[0]} times {case.shapes[1]}")
    try:
        batch = np.broadcast_shapes(*(shape[:-2] for shape in case.shapes))
    except ValueError:
        batch = ()
        require(False, f"{case.shapes[0]} and {case.shapes[1]} do not broadcast")
    return (*(int(size) for size in batch), rows, columns)


def _overflow(case: Case) -> Iterator[str]:
    depth, multiplier = _matrices(case)[0][1], _multiplier(case)
    largest = depth * case.reach(0) * case.reach(1)
    yield from exceeding(largest, _ACCUMULATOR[case.dtype], f"the sum of {depth} products")
    bound = limits.MULTIPLIER[case.dtype]
    if multiplier >= bound:
        yield said(multiplier, "the product of its input scales / output scale", f"below {bound:g}")
    wide = case.dtype == "int16"
    yield from results(np.asarray(largest * multiplier) if wide else shifted(largest, multiplier))


def _products(case: Case) -> int:
    return math.prod(case.output.shape) * _matrices(case)[0][1]


BATCH_MATMUL = register(
    OperatorKind(
        "BATCH_MATMUL",
        batch_matmul,
        _shape,
        versions=(2, 3),
        options="BatchMatMulOptions",
        attributes={"adj_x": Attribute("adjX"), "adj_y": Attribute("adjY")},
        roles=("left", "right"),
        overflow=_overflow,
        multiplications=_products,
        # It takes a constant right operand.
        tolerances=RESCALED_BY_XNNPACK,
    )
)
