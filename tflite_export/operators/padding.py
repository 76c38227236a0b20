"""Padding of images and of other tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import Attribute, OperatorKind, Shape, register
from tflite_export.graph.shapes import integers, require
from tflite_export.operators.operands import Operands
from tflite_export.operators.stored import OPERAND


def pad(operands: Operands) -> np.ndarray:
    amounts = operands.attributes["paddings"]
    fill = operands.output.quantization.zero_point
    return np.pad(operands.arrays[0], amounts, constant_values=fill)


def pad_with(operands: Operands) -> np.ndarray:
    """Padding by any value."""
    (value,) = operands.array("value").reshape(-1)
    return np.pad(operands.arrays[0], operands.attributes["paddings"], constant_values=value)


def mirror_pad(operands: Operands) -> np.ndarray:
    values, amounts = operands.arrays[0], operands.attributes["paddings"]
    reflects = operands.attributes["mode"] == "REFLECT"
    return np.pad(values, amounts, mode="reflect" if reflects else "symmetric")


def _value_problems(case: Case) -> Iterator[str]:
    value = case.tensor("value")
    if value.data is None or value.data.size != 1:
        yield f"the value {value.name!r} {value.shape} must be one constant"


def _padded(case: Case) -> Shape:
    given = case.shapes[0]
    amounts = [integers(pair, 2, "padding") for pair in case.attributes["paddings"]]
    require(len(amounts) == len(given), f"{len(amounts)} paddings of {given}")
    return tuple(
        before + size + after for size, (before, after) in zip(given, amounts, strict=True)
    )


def _mirrored(case: Case) -> Shape:
    made = _padded(case)
    kept = 1 if case.attributes["mode"] == "REFLECT" else 0
    for size, pair in zip(case.shapes[0], case.attributes["paddings"], strict=True):
        require(max(pair) <= size - kept, f"a mirror of {max(pair)} beside {size}")
    return made


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
PADV2 = register(
    OperatorKind(
        "PADV2",
        pad_with,
        _padded,
        versions=(2, 3),
        options="PadV2Options",
        attributes={"paddings": OPERAND},
        roles=("input", "value"),
        layout=("input", "paddings", "value"),
        operands=_value_problems,
        ties=True,
    )
)
MIRROR_PAD = register(
    OperatorKind(
        "MIRROR_PAD",
        mirror_pad,
        _mirrored,
        versions=(2, 3),
        options="MirrorPadOptions",
        attributes={
            "mode": Attribute("mode", "MirrorPadMode", ("REFLECT", "SYMMETRIC")),
            "paddings": OPERAND,
        },
        ties=True,
    )
)
