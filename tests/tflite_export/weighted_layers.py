"""Graphs of one operator with weights, for tests of what is done with files."""

from __future__ import annotations

import numpy as np

from tests.tflite_export import one_operator as one
from tflite_export.graph.kinds import kind_of
from tflite_export.graph.structure import IntegerGraph, Tensor

GENERATOR = np.random.default_rng(0)
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "CONV_2D": {"w": (20, 3, 2, 24), "x": (1, 6, 7, 24), "y": (1, 6, 7, 20)},
    "DEPTHWISE_CONV_2D": {"w": (1, 5, 3, 192), "x": (1, 6, 7, 192), "y": (1, 6, 7, 192)},
    "FULLY_CONNECTED": {"w": (20, 300), "x": (1, 300), "y": (1, 20)},
    "TRANSPOSE_CONV": {"w": (20, 3, 2, 24), "x": (1, 6, 7, 24), "y": (1, 12, 14, 20)},
}
ATTRIBUTES: dict[str, dict[str, object]] = {
    "CONV_2D": {"padding": "SAME", "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1},
    "FULLY_CONNECTED": {"keep_num_dims": False},
    "TRANSPOSE_CONV": {
        "padding": "SAME",
        "stride_h": 2,
        "stride_w": 2,
        "output_shape": SHAPES["TRANSPOSE_CONV"]["y"],
    },
}
ATTRIBUTES["DEPTHWISE_CONV_2D"] = ATTRIBUTES["CONV_2D"] | {"depth_multiplier": 1}


def convolution(bits: int = 4, kind: str = "CONV_2D") -> IntegerGraph:
    """A small one with a ReLU, other weights at every call."""
    top = 2 ** (bits - 1) - 1
    shape = (5, 3, 2, 3) if kind == "CONV_2D" else (1, 3, 2, 3)
    outputs = 5 if kind == "CONV_2D" else 3
    weights = GENERATOR.integers(-top, top + 1, shape).astype(np.int8)
    scale = GENERATOR.uniform(0.01, 0.03, outputs).astype(np.float32)
    bias = GENERATOR.integers(-99, 99, outputs).astype(np.int32)
    attributes = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "activation": "RELU"}
    attributes |= {"dilation_h": 1, "dilation_w": 1}
    if kind != "CONV_2D":
        attributes["depth_multiplier"] = 1
    axis = 0 if kind == "CONV_2D" else 3
    return one.graph_of(
        kind,
        [
            one.activation("x", (1, 6, 7, 3), "int8", 0.04, 3),
            Tensor("w", shape, "int8", one.quantization(scale, 0, axis), weights, bits),
            Tensor("b", (outputs,), "int32", one.quantization(np.float32(0.04) * scale), bias, 32),
        ],
        one.activation("y", (1, 4, 6, outputs), "int8", 0.05, -128),
        attributes,
    )


def layer(kind: str, bits: int, *, per_channel: bool = True, dtype: str = "int8") -> IntegerGraph:
    """One weighted operator, large enough to gain from a table."""
    generator, top = np.random.default_rng(bits), 2 ** (bits - 1) - 1
    shapes, axis = SHAPES[kind], kind_of(kind).channel_axis
    channels = shapes["w"][axis]
    weights = generator.integers(-top, top + 1, shapes["w"]).astype(np.int8)
    scale = generator.uniform(0.5, 1.5, channels if per_channel else 1).astype(np.float32) / top
    step = np.float32(0.04 if dtype == "int8" else 0.0004)
    bias = generator.integers(-99, 99, channels).astype("int32" if dtype == "int8" else "int64")
    constants = [
        Tensor("w", shapes["w"], "int8", one.quantization(scale, 0, axis), weights, bits),
        Tensor(
            "b",
            bias.shape,
            str(bias.dtype),
            one.quantization(step * scale),
            bias,
            8 * bias.itemsize,
        ),
    ]
    inputs = [one.activation("x", shapes["x"], dtype, step, 3), *constants]
    output = one.activation("y", shapes["y"], dtype, 9 * step)
    return one.graph_of(kind, inputs, output, ATTRIBUTES[kind] | {"activation": "NONE"})
