"""Activations of 4 to 7 bits: int8 tensors that use the highest 2^b codes only.

Every runtime computes them exactly, none gains from them today. Kernels saturate at 127, which
bounds the codes above; below, a ReLU does where the zero point is the lowest code, and otherwise a
MAXIMUM with a constant.
"""

from __future__ import annotations

from collections.abc import Mapping

from tflite_export.graph.activations import RELUS
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import clamp_of
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor


def lowest_code(bits: int) -> int:
    """Lowest of the 2^bits codes of an int8 activation; the highest is 127."""
    return 128 - 2**bits


def is_narrow(tensor: Tensor) -> bool:
    """Whether an activation uses fewer codes than its type has."""
    return not tensor.is_constant and tensor.bits < 8


def check_codes(graph: IntegerGraph) -> None:
    """Proves that narrow activations keep to their codes, whatever the inputs.

    Raises:
        ValueError: names the input or the operator that may leave them.
    """
    for public, name in graph.inputs:
        if is_narrow(graph.tensors[name]):
            raise ValueError(
                f"input {public!r} has {graph.tensors[name].bits} bits, but callers may pass any "
                "integer of its type; clamp it by a MAXIMUM"
            )
    for operator in graph.operators:
        if not stays_within(operator, graph.tensors):
            made = graph.tensors[operator.outputs[0]]
            raise ValueError(
                f"{operator.where}: may write codes below "
                f"{lowest_code(made.bits)}, the lowest of the {made.bits} bits of {made.name!r}; "
                "put a MAXIMUM behind it"
            )


def stays_within(operator: Operator, tensors: Mapping[str, Tensor]) -> bool:
    """Whether an operator cannot write a code below the lowest of its output's width."""
    made = tensors[operator.outputs[0]]
    if not is_narrow(made):
        return True
    low = lowest_code(made.bits)
    if clamp_of(operator) in RELUS and made.quantization.zero_point >= low:
        return True
    case = Case.of(operator, tensors)
    if case.kind.keeps_codes is not None:
        return case.kind.keeps_codes(case, low)
    # What these write lies between their inputs' integers.
    return case.kind.ties and all(lowest(tensor) >= low for tensor in case.activations)


def lowest(tensor: Tensor) -> int:
    """Lowest integer that a tensor can hold."""
    if tensor.data is not None:
        return int(tensor.data.min())
    return lowest_code(tensor.bits) if tensor.bits <= 8 else -(2 ** (tensor.bits - 1))
