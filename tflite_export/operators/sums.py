"""What the sums of weighted operators need of their weights and biases, and can hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tflite_export.graph import limits
from tflite_export.graph.case import Case
from tflite_export.graph.fixed_point import quantize_multiplier
from tflite_export.graph.kinds import BIAS, WEIGHTS
from tflite_export.graph.proofs import exceeding, results, said, shifted
from tflite_export.graph.structure import Tensor

_BIASES = ("int32", "int64")


def weight_problems(case: Case) -> Iterator[str]:
    """Why kernels cannot take the weights or the bias of an operator."""
    weights, axis = case.tensor(WEIGHTS), case.kind.channel_axis
    assert axis is not None
    quantization = weights.quantization
    if weights.data is None or weights.dtype != "int8" or quantization.zero_point != 0:
        yield (
            f"the weights {weights.name!r} are {_described(weights)} with zero point "
            f"{quantization.zero_point}, need int8 constants with zero point 0"
        )
    channels = weights.shape[axis] if axis < len(weights.shape) else 0
    if quantization.per_channel and (quantization.scale.size, quantization.axis) != (
        channels,
        axis,
    ):
        yield (
            f"the weights {weights.name!r} {weights.shape} have "
            f"{quantization.scale.size} scales along axis {quantization.axis}, need one, or one a "
            f"channel along axis {axis}"
        )
    if not case.has(BIAS):
        return
    bias = case.tensor(BIAS)
    if bias.data is None or bias.dtype not in _BIASES:
        yield (
            f"the bias {bias.name!r} is {_described(bias)}, need a constant of int32, "
            "or int64 under int16 activations"
        )


def _described(tensor: Tensor) -> str:
    return tensor.dtype if tensor.is_constant else f"computed {tensor.dtype}"


def accumulators(source: Tensor, weights: Tensor, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sum of products of each output channel, int64; never above or below 0.

    Args:
        axis: of the channels in `weights`.
    """
    assert weights.data is not None
    by_channel = np.moveaxis(weights.data, axis, 0).reshape(weights.shape[axis], -1)
    by_channel = by_channel.astype(np.int64)
    positive = np.maximum(by_channel, 0).sum(axis=1)
    negative = np.minimum(by_channel, 0).sum(axis=1)
    lowest, highest = limits.reach(source.dtype, source.quantization.zero_point)
    return (
        positive * lowest + negative * highest,
        positive * highest + negative * lowest,
    )


def kernel_overflow(case: Case) -> Iterator[str]:
    """What a kernel cannot hold of sums, multipliers and results."""
    weights, axis = case.tensor(WEIGHTS), case.kind.channel_axis
    assert axis is not None
    low, high = accumulators(case.inputs[0], weights, axis)
    multiplier = case.scale() * weights.quantization.scale.astype(np.float64) / case.output_scale
    bias = _bias(case)
    # Every partial sum, with the bias first or last, lies between these.
    partial = np.maximum(np.abs(low + np.minimum(bias, 0)), np.abs(high + np.maximum(bias, 0)))
    yield from exceeding(partial, limits.ACCUMULATOR[case.dtype], "the sum of products and bias")
    bound = limits.MULTIPLIER[case.dtype]
    if np.any(multiplier >= bound):
        yield said(multiplier, "input scale * weight scale / output scale", f"below {bound:g}")
    final = np.maximum(np.abs(low + bias), np.abs(high + bias))
    lost = np.where(quantize_multiplier(multiplier)[0] == 0, final * multiplier, 0.0)
    yield from exceeding(lost, 0.5, "what a multiplier loses that kernels take for 0")
    wide = case.dtype == "int16"
    yield from results(final * multiplier if wide else shifted(final, multiplier))


def _bias(case: Case) -> np.ndarray:
    """int64; zero where there is none."""
    if not case.has(BIAS):
        return np.zeros(1, np.int64)
    data = case.tensor(BIAS).data
    assert data is not None
    return data.astype(np.int64)
