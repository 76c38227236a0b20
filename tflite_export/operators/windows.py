"""Sliding windows over NHWC tensors, with TensorFlow's padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_export.graph.case import Case
from tflite_export.graph.kinds import WEIGHTS
from tflite_export.graph.shapes import positive

#: Size with dilation and stride, in both directions.
Windows = Sequence[tuple[int, int]]


def filter_windows(case: Case) -> Windows:
    """Windows of an operator that has the size of its filter as attributes."""
    strides = positive(case.attributes, "stride_h", "stride_w")
    sizes = positive(case.attributes, "filter_h", "filter_w")
    return list(zip(sizes, strides, strict=True))


def kernel_windows(case: Case) -> Windows:
    """Windows of an operator whose weights are (N, H, W, M)."""
    strides = positive(case.attributes, "stride_h", "stride_w")
    dilations = positive(case.attributes, "dilation_h", "dilation_w")
    sizes = case.tensor(WEIGHTS).shape[1:3]
    return [
        ((size - 1) * dilation + 1, stride)
        for size, dilation, stride in zip(sizes, dilations, strides, strict=True)
    ]


def padded_elements(case: Case, windows: Windows) -> int:
    """Elements of an operator's image with the padding that its windows need."""
    batch, *sizes, channels = case.shapes[0]
    padded = 1
    for size, (window, stride) in zip(sizes, windows, strict=True):
        outputs = -(-size // stride)
        padded *= max(size, (outputs - 1) * stride + window)
    return batch * padded * channels


def padding_before_after(size: int, *, window: int, stride: int, same: bool) -> tuple[int, int]:
    """Zeros before and after one dimension; `window` includes the dilation."""
    if not same:
        return 0, 0
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def windows(
    values: np.ndarray, filter_size: tuple[int, int], attributes: Mapping[str, Any], *, fill: int
) -> np.ndarray:
    """All windows of a tensor padded with `fill`.

    Args:
        values: (N, H, W, C).
        attributes: padding, stride_h, stride_w and, optionally, dilation_h, dilation_w.

    Returns:
        A view (N, OH, OW, C, filter height, filter width).
    """
    same = attributes["padding"] == "SAME"
    amounts, spans = [(0, 0)], []
    for axis, name in ((1, "h"), (2, "w")):
        span = (filter_size[axis - 1] - 1) * attributes.get(f"dilation_{name}", 1) + 1
        stride = attributes[f"stride_{name}"]
        amounts.append(
            padding_before_after(values.shape[axis], window=span, stride=stride, same=same)
        )
        spans.append(span)
    padded = np.pad(values, [*amounts, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2))
    return view[
        :,
        :: attributes["stride_h"],
        :: attributes["stride_w"],
        :,
        :: attributes.get("dilation_h", 1),
        :: attributes.get("dilation_w", 1),
    ]
