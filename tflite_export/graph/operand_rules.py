"""Which operands every operator has: how many, of which types, with how many scales."""

from __future__ import annotations

from tflite_export.graph.activations import NONE
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import ACTIVATION, OperatorKind
from tflite_export.graph.structure import SHARES, Operator, Tensor, is_shares, parameters

_ACTIVATIONS = ("int8", "int16")
#: Type of numbers of places.
INDEX = "int32"


def check_counts(operator: Operator, kind: OperatorKind) -> None:
    """How many operands an operator has.

    Raises:
        ValueError: names the operator, what it has and what it needs.
    """
    where, count = operator.where, len(operator.inputs)
    if kind.bias_reason and count != len(kind.roles):
        raise ValueError(
            f"{where}: has {count} inputs, needs 3: image, weights and bias "
            f"(zeros will do); {kind.bias_reason}"
        )
    fewest, most = kind.fewest_inputs, kind.most_inputs
    if not fewest <= count <= most or len(operator.outputs) != 1:
        raise ValueError(
            f"{where}: has {count} inputs and {len(operator.outputs)} outputs, needs "
            f"{fewest if fewest == most else f'at least {fewest}'} and 1"
        )


def check_operands(case: Case) -> None:
    """What an operator reads and writes, beside its shapes (see `tflite_export.graph.shapes`).

    Raises:
        ValueError: names the operator, what it has and what it needs.
    """
    where, output, kind = case.operator.where, case.output, case.kind
    if output.is_constant:
        raise ValueError(f"{where}: writes {output.name!r}, which is a constant")
    if kind.counts and output.dtype == INDEX:
        _check_numbers(case, where)
        return
    is_free = kind.converts or kind.makes_indices or is_shares(output)
    for tensor in case.activations if kind.makes_indices else (*case.activations, output):
        for problem in activation_problems(tensor):
            raise ValueError(f"{where}: {problem}")
        if tensor.dtype != output.dtype and not is_free:
            raise ValueError(
                f"{where}: reads {tensor.name!r} of {tensor.dtype} and writes {output.dtype}; "
                "put a QUANTIZE before it"
            )
    if kind.makes_indices and output.dtype != INDEX:
        raise ValueError(f"{where}: writes {output.dtype}, need {INDEX}")
    _check_shares(case, where)
    for problem in kind.operands(case) if kind.operands else ():
        raise ValueError(f"{where}: {problem}")
    if kind.ties:
        _check_tied(case, where)


def activation_problems(tensor: Tensor) -> list[str]:
    """Why a tensor cannot be read or written as an activation; at most one sentence."""
    if tensor.dtype in _ACTIVATIONS and not tensor.quantization.per_channel:
        return []
    return [
        f"{tensor.name!r} is {tensor.dtype} with {tensor.quantization.scale.size} scales, need "
        "int8 or int16 with one"
    ]


def _check_numbers(case: Case, where: str) -> None:
    """Numbers of places are computed with as they are: no scale, nothing cut."""
    if case.attributes.get(ACTIVATION, NONE) != NONE:
        raise ValueError(f"{where}: computes {INDEX} and fuses an activation function")
    for tensor in case.inputs:
        if tensor.dtype != INDEX:
            raise ValueError(f"{where}: reads {tensor.name!r} of {tensor.dtype}, need {INDEX}")


def _check_shares(case: Case, where: str) -> None:
    """The int16 results of a softmax of int8 are for QUANTIZE alone: others expect zero point 0."""
    kind, inputs = case.kind, case.activations
    may_write = kind.makes_shares and inputs[0].dtype == "int8"
    written = is_shares(case.output) and not may_write
    if written or (not kind.converts and any(map(is_shares, inputs))):
        raise ValueError(
            f"{where}: int16 with zero point {SHARES.zero_point} is what a SOFTMAX of int8 writes "
            "and a QUANTIZE reads"
        )


def _check_tied(case: Case, where: str) -> None:
    made = case.output
    for given in case.activations:
        if parameters(given) != parameters(made):
            raise ValueError(
                f"{where}: copies integers, so {given.name!r} {parameters(given)} and "
                f"{made.name!r} {parameters(made)} must have the same type, scale and zero "
                "point; put a QUANTIZE before it"
            )
