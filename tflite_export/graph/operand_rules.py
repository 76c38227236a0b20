"""Which operands every operator has: how many, of which types, with how many scales."""

from __future__ import annotations

from collections.abc import Mapping

from tflite_export.graph.structure import (
    BIAS_REQUIRED,
    SHARES,
    WEIGHTED,
    Operator,
    Tensor,
    is_shares,
)

_TWO = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU")
#: Operator -> fewest and most inputs; one where it is not listed.
INPUTS: dict[str, tuple[int, int]] = {
    "CONV_2D": (3, 3),
    "DEPTHWISE_CONV_2D": (3, 3),
    "FULLY_CONNECTED": (2, 3),
    "CONCATENATION": (1, 2**31),
    **dict.fromkeys(_TWO, (2, 2)),
}
#: The dimension of the channels in weights, which may have a scale each.
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_ACTIVATIONS, _BIASES = ("int8", "int16"), ("int32", "int64")


def check_operands(operator: Operator, tensors: Mapping[str, Tensor]) -> None:
    """What an operator reads and writes, beside its shapes (see `tflite_export.graph.shapes`).

    Raises:
        ValueError: names the operator, what it has and what it needs.
    """
    where = f"operator {operator.kind} of layer {operator.layer!r}"
    _check_counts(operator, where)
    inputs = [tensors[name] for name in operator.inputs]
    output = tensors[operator.outputs[0]]
    if output.is_constant:
        raise ValueError(f"{where}: writes {output.name!r}, which is a constant")
    activations = inputs[:1] if operator.kind in (*WEIGHTED, "PRELU") else inputs
    for tensor in (*activations, output):
        _check_activation(tensor, where)
        if operator.kind != "QUANTIZE" and tensor.dtype != output.dtype and not is_shares(output):
            raise ValueError(
                f"{where}: reads {tensor.name!r} of {tensor.dtype} and writes {output.dtype}; "
                "put a QUANTIZE before it"
            )
    _check_shares(operator.kind, activations, output, where)
    if operator.kind in WEIGHTED:
        _check_weights(operator.kind, inputs[1:], where)
    elif operator.kind == "PRELU":
        _check_slopes(inputs[1], where)


def _check_counts(operator: Operator, where: str) -> None:
    count = len(operator.inputs)
    if operator.kind in BIAS_REQUIRED and count != 3:
        raise ValueError(
            f"{where}: has {count} inputs, needs 3: image, weights and bias "
            f"(zeros will do); {BIAS_REQUIRED[operator.kind]}"
        )
    fewest, most = INPUTS.get(operator.kind, (1, 1))
    if not fewest <= count <= most or len(operator.outputs) != 1:
        raise ValueError(
            f"{where}: has {count} inputs and {len(operator.outputs)} outputs, needs "
            f"{fewest if fewest == most else f'at least {fewest}'} and 1"
        )


def _check_activation(tensor: Tensor, where: str) -> None:
    if tensor.dtype not in _ACTIVATIONS or tensor.quantization.per_channel:
        raise ValueError(
            f"{where}: {tensor.name!r} is {tensor.dtype} with {tensor.quantization.scale.size} "
            "scales, need int8 or int16 with one"
        )


def _check_shares(kind: str, inputs: list[Tensor], output: Tensor, where: str) -> None:
    """The int16 results of a softmax of int8 are for QUANTIZE alone: others expect zero point 0."""
    written = is_shares(output) and (kind != "SOFTMAX" or inputs[0].dtype != "int8")
    read = kind != "QUANTIZE" and any(map(is_shares, inputs))
    if written or read:
        raise ValueError(
            f"{where}: int16 with zero point {SHARES.zero_point} is what a SOFTMAX of int8 writes "
            "and a QUANTIZE reads"
        )


def _check_weights(kind: str, constants: list[Tensor], where: str) -> None:
    weights, axis = constants[0], _CHANNEL_AXIS[kind]
    quantization = weights.quantization
    if weights.data is None or weights.dtype != "int8" or quantization.zero_point != 0:
        raise ValueError(
            f"{where}: the weights {weights.name!r} are {_described(weights)} with zero point "
            f"{quantization.zero_point}, need int8 constants with zero point 0"
        )
    channels = weights.shape[axis] if axis < len(weights.shape) else 0
    if quantization.per_channel and (quantization.scale.size, quantization.axis) != (
        channels,
        axis,
    ):
        raise ValueError(
            f"{where}: the weights {weights.name!r} {weights.shape} have "
            f"{quantization.scale.size} scales along axis {quantization.axis}, need one, or one a "
            f"channel along axis {axis}"
        )
    for bias in constants[1:]:
        if bias.data is None or bias.dtype not in _BIASES:
            raise ValueError(
                f"{where}: the bias {bias.name!r} is {_described(bias)}, need a constant of int32, "
                "or int64 under int16 activations"
            )


def _check_slopes(slopes: Tensor, where: str) -> None:
    if slopes.dtype != "int8":
        raise ValueError(
            f"{where}: the slopes are {slopes.dtype}, need int8, also under "
            "int16 activations: kernels read int16 slopes wrongly"
        )
    _check_activation(slopes, where)


def _described(tensor: Tensor) -> str:
    return tensor.dtype if tensor.is_constant else f"computed {tensor.dtype}"
