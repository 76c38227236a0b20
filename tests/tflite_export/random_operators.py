"""Random graphs of one operator: shapes, scales, zero points and attributes of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.tflite_export import one_operator as one
from tflite_export.graph.structure import IntegerGraph, Tensor

#: An int16 step is this much finer than an int8 one, so that both span the same reals.
STEP = {"int8": 1.0, "int16": 1 / 256, "int32": 1.0}
BIAS = {"int8": "int32", "int16": "int64"}


class Draw:
    """Random choices of one test case."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.generator = np.random.default_rng(seed)
        self.dtype = dtype
        self.step = STEP[dtype]

    def integer(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def log_uniform(self, low: float, high: float) -> float:
        return float(np.exp(self.generator.uniform(np.log(low), np.log(high))))

    def choice(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def activation(
        self, name: str, shape: tuple[int, ...], scale: float, zero: int | None = None
    ) -> Tensor:
        if self.dtype == "int32":
            return Tensor(name, shape, self.dtype, one.quantization(1.0), bits=32)
        zero = self.integer(-128, 127) if zero is None else zero
        return one.activation(name, shape, self.dtype, scale, zero)

    def image(self) -> tuple[int, int, int, int]:
        return 1, self.integer(4, 9), self.integer(4, 9), self.integer(1, 6)

    def window(self, *, stride: int = 2) -> dict[str, Any]:
        return {
            "padding": self.choice("SAME", "VALID"),
            "stride_h": self.integer(1, stride),
            "stride_w": self.integer(1, stride),
        }

    def fused(self) -> str:
        return self.choice("NONE", "RELU", "RELU6")


def windowed(size: int, span: int, stride: int, padding: str) -> int:
    return -(-size // stride) if padding == "SAME" else (size - span) // stride + 1


def conv_2d(draw: Draw, bits: int = 8, per_channel: bool = True) -> IntegerGraph:
    source = draw.image()
    kernel = (draw.integer(1, 6), draw.integer(1, 2), draw.integer(1, 2), source[3])
    return _convolution("CONV_2D", draw, source, kernel, {}, bits, per_channel)


def depthwise_conv_2d(draw: Draw, bits: int = 8, per_channel: bool = True) -> IntegerGraph:
    source, multiplier = draw.image(), draw.integer(1, 3)
    kernel = (1, draw.integer(1, 2), draw.integer(1, 2), source[3] * multiplier)
    extra = {"depth_multiplier": multiplier}
    return _convolution("DEPTHWISE_CONV_2D", draw, source, kernel, extra, bits, per_channel)


def _convolution(
    kind: str,
    draw: Draw,
    source: tuple[int, ...],
    kernel: tuple[int, ...],
    extra: dict[str, int],
    bits: int,
    per_channel: bool,
) -> IntegerGraph:
    attributes = draw.window() | extra | {"activation": draw.fused()}
    attributes |= {"dilation_h": draw.integer(1, 2), "dilation_w": draw.integer(1, 2)}
    if kind == "DEPTHWISE_CONV_2D":
        attributes["stride_w"] = attributes["stride_h"]
    sizes = [
        windowed(
            source[axis],
            (kernel[axis] - 1) * attributes[f"dilation_{name}"] + 1,
            attributes[f"stride_{name}"],
            attributes["padding"],
        )
        for axis, name in ((1, "h"), (2, "w"))
    ]
    axis = 0 if kind == "CONV_2D" else 3
    output = (1, *sizes, kernel[axis])
    return _weighted(kind, draw, source, kernel, output, attributes, axis, bits, per_channel)


def transpose_conv(draw: Draw, bits: int = 8, per_channel: bool = True) -> IntegerGraph:
    source, attributes = draw.image(), draw.window(stride=3)
    kernel = (draw.integer(1, 6), draw.integer(1, 4), draw.integer(1, 4), source[3])
    sizes = []
    for axis, name in ((1, "h"), (2, "w")):
        stride = attributes[f"stride_{name}"]
        least = 0 if attributes["padding"] == "SAME" else kernel[axis] - 1
        # All sizes of which a convolution makes the input's.
        sizes.append((source[axis] - 1) * stride + least + draw.integer(1, stride))
    output = (1, *sizes, kernel[0])
    attributes |= {"activation": draw.fused(), "output_shape": output}
    return _weighted(
        "TRANSPOSE_CONV", draw, source, kernel, output, attributes, 0, bits, per_channel
    )


def fully_connected(draw: Draw, bits: int = 8, per_channel: bool = True) -> IntegerGraph:
    depth, outputs = draw.integer(1, 99), draw.integer(1, 6)
    keep = draw.choice(True, False)
    lead = (1, draw.integer(1, 4)) if keep else (1,)
    return _weighted(
        "FULLY_CONNECTED",
        draw,
        (*lead, depth),
        (outputs, depth),
        (*lead, outputs),
        {"keep_num_dims": keep, "activation": draw.fused()},
        0,
        bits,
        per_channel,
    )


def _weighted(
    kind: str,
    draw: Draw,
    source: tuple[int, ...],
    kernel: tuple[int, ...],
    output: tuple[int, ...],
    attributes: dict[str, Any],
    axis: int,
    bits: int,
    per_channel: bool,
) -> IntegerGraph:
    top, channels = 2 ** (bits - 1) - 1, kernel[axis]
    weights = draw.generator.integers(-top, top + 1, kernel).astype(np.int8)
    scales = [draw.log_uniform(0.01, 1.0) / top for _ in range(channels if per_channel else 1)]
    weight_scale = np.array(scales, np.float32)
    input_scale = np.float32(draw.log_uniform(0.001, 0.1) * draw.step)
    terms = np.prod(kernel) / channels
    output_scale = input_scale * weight_scale.max() * top * np.sqrt(terms) * draw.choice(0.3, 1, 2)
    limit = int(50 * top / draw.step)
    bias = draw.generator.integers(-limit, limit + 1, channels).astype(BIAS[draw.dtype])
    return one.graph_of(
        kind,
        [
            draw.activation("x", source, input_scale),
            Tensor("w", kernel, "int8", one.quantization(weight_scale, 0, axis), weights, bits),
            Tensor(
                "b",
                (channels,),
                BIAS[draw.dtype],
                one.quantization(input_scale * weight_scale),
                bias,
                8 * bias.itemsize,
            ),
        ],
        draw.activation("y", output, output_scale),
        attributes,
    )


def arithmetic(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        if draw.dtype == "int32":
            return places(draw)
        shape = draw.image()
        other = draw.choice(shape, (1, 1, 1, shape[3]), (1, *shape[1:3], 1), (1, shape[3]))
        left, right = (draw.log_uniform(0.001, 0.3) * draw.step for _ in "xz")
        if kind == "MUL":
            scale = left * right / draw.step * draw.log_uniform(20, 200)
        else:
            scale = (left + right) * draw.log_uniform(0.3, 1.5)
        inputs = [draw.activation("x", shape, left), draw.activation("z", other, right)]
        if draw.choice(True, False):
            inputs.reverse()
        output = draw.activation("y", shape, scale)
        return one.graph_of(kind, inputs, output, {"activation": draw.fused()})

    return build


def batch_matmul(draw: Draw) -> IntegerGraph:
    batch, rows, depth, columns = (draw.integer(1, 7) for _ in range(4))
    turns = draw.choice(False, True), draw.choice(False, True)
    left = (depth, rows) if turns[0] else (rows, depth)
    right = (columns, depth) if turns[1] else (depth, columns)
    lead = draw.choice((1, batch), (1,))
    scales = [draw.log_uniform(0.001, 0.3) * draw.step for _ in "xz"]
    inputs = [
        draw.activation("x", (*lead, *left), scales[0]),
        draw.activation("z", (*draw.choice(lead, (1,) * len(lead)), *right), scales[1]),
    ]
    if draw.choice(True, False):
        info = np.iinfo(draw.dtype)
        values = draw.generator.integers(info.min, info.max + 1, inputs[1].shape)
        inputs[1] = dataclasses.replace(inputs[1], data=values.astype(draw.dtype), bits=info.bits)
    scale = scales[0] * scales[1] * depth / draw.step * draw.log_uniform(10, 100)
    output = draw.activation("y", (*lead, rows, columns), scale)
    return one.graph_of("BATCH_MATMUL", inputs, output, {"adj_x": turns[0], "adj_y": turns[1]})


def squared_difference(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    scales = [draw.log_uniform(0.001, 0.3) * draw.step for _ in "xz"]
    inputs = [
        draw.activation("x", shape, scales[0]),
        draw.activation("z", draw.choice(shape, (1, 1, 1, shape[3])), scales[1]),
    ]
    scale = max(scales) ** 2 / draw.step * draw.log_uniform(20, 200)
    return one.graph_of("SQUARED_DIFFERENCE", inputs, draw.activation("y", shape, scale))


def rsqrt(draw: Draw) -> IntegerGraph:
    shape, scale = draw.image(), draw.log_uniform(0.0001, 10) * draw.step
    made = draw.activation("y", shape, draw.log_uniform(0.01, 0.5) * draw.step / np.sqrt(scale))
    return one.graph_of("RSQRT", [draw.activation("x", shape, scale, -128)], made)


def exponential(draw: Draw) -> IntegerGraph:
    shape, scale = draw.image(), draw.log_uniform(0.001, 0.03) * draw.step
    source = draw.activation("x", shape, scale)
    highest = np.iinfo(draw.dtype).max - source.quantization.zero_point
    made = float(np.exp(highest * scale)) * draw.log_uniform(0.002, 0.01) * draw.step
    return one.graph_of("EXP", [source], draw.activation("y", shape, made))


def strided_slice(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    begin = (0, *(draw.integer(0, size - 1) for size in shape[1:]))
    end = (1, *(draw.integer(b + 1, n) for n, b in zip(shape[1:], begin[1:], strict=True)))
    strides = (1, *(draw.integer(1, 3) for _ in range(3)))
    output = tuple(-(-(e - b) // s) for b, e, s in zip(begin, end, strides, strict=True))
    attributes = {"begin": begin, "end": end, "strides": strides}
    return _same_parameters("STRIDED_SLICE", draw, shape, output, attributes)


def extremum(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        shape, scale, zero = draw.image(), draw.log_uniform(0.001, 0.3), draw.integer(-128, 127)
        other = draw.choice(shape, (1, 1, 1, shape[3]))
        inputs = [draw.activation(*given, scale, zero) for given in (("x", shape), ("z", other))]
        return one.graph_of(kind, inputs, draw.activation("y", shape, scale, zero))

    return build


def concatenation(draw: Draw) -> IntegerGraph:
    shape, axis = draw.image(), draw.integer(1, 3)
    scale, zero = draw.log_uniform(0.001, 0.3), draw.integer(-128, 127)
    sizes = [draw.integer(1, 5) for _ in range(draw.integer(2, 4))]
    inputs = [
        draw.activation(f"x{index}", (*shape[:axis], size, *shape[axis + 1 :]), scale, zero)
        for index, size in enumerate(sizes)
    ]
    output = draw.activation("y", (*shape[:axis], sum(sizes), *shape[axis + 1 :]), scale, zero)
    return one.graph_of("CONCATENATION", inputs, output, {"axis": draw.choice(axis, axis - 4)})


def pool(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        shape, attributes = draw.image(), draw.window(stride=3)
        attributes |= {"filter_h": draw.integer(1, 4), "filter_w": draw.integer(1, 4)}
        sizes = [
            windowed(
                shape[axis],
                attributes[f"filter_{name}"],
                attributes[f"stride_{name}"],
                attributes["padding"],
            )
            for axis, name in ((1, "h"), (2, "w"))
        ]
        return _same_parameters(kind, draw, shape, (1, *sizes, shape[3]), attributes)

    return build


def _same_parameters(
    kind: str, draw: Draw, shape: tuple[int, ...], output: tuple[int, ...], attributes: Any
) -> IntegerGraph:
    scale, zero = draw.log_uniform(0.001, 0.3), draw.integer(-128, 127)
    inputs = [draw.activation("x", shape, scale, zero)]
    return one.graph_of(kind, inputs, draw.activation("y", output, scale, zero), attributes)


def arg_max(draw: Draw) -> IntegerGraph:
    shape = (1, draw.integer(4, 30), draw.integer(4, 30), draw.integer(4, 60))
    axis = draw.choice(1, 2, 3, -1)
    kept = tuple(size for place, size in enumerate(shape) if place != axis % 4)
    output = Tensor("y", kept, "int32", one.quantization(1.0), bits=32)
    inputs = [draw.activation("x", shape, draw.log_uniform(0.001, 0.3))]
    return one.graph_of("ARG_MAX", inputs, output, {"axis": (axis,)})


def extreme_of(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        return _extreme(kind, draw)

    return build


def _extreme(kind: str, draw: Draw) -> IntegerGraph:
    shape, keep = draw.image(), draw.choice(True, False)
    axes = draw.choice((1, 2), (1,), (2,), (3,), (1, 2, 3), (2, 3))
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    dropped = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    attributes = {"axes": axes, "keep_dims": keep}
    return _same_parameters(kind, draw, shape, kept if keep else dropped, attributes)


def total(draw: Draw) -> IntegerGraph:
    graph = mean(draw)
    given, made = graph.tensors["x"], graph.tensors["y"]
    count = np.prod(given.shape) / np.prod(made.shape)
    scale = given.quantization.scale[0] * float(np.sqrt(count)) * draw.log_uniform(0.5, 3)
    output = draw.activation("y", made.shape, scale)
    return one.graph_of("SUM", [given], output, graph.operators[0].attributes)


def mean(draw: Draw) -> IntegerGraph:
    shape, keep = draw.image(), draw.choice(True, False)
    axes = draw.choice((1, 2), (1,), (2,), (3,), (1, 2, 3), (2, 3))
    kept = (1 if axis in axes else size for axis, size in enumerate(shape))
    dropped = (size for axis, size in enumerate(shape) if axis not in axes)
    scale = draw.log_uniform(0.001, 0.3) * draw.step
    zero = draw.integer(-128, 127)
    output_scale, output_zero = draw.choice((scale, zero), (scale * draw.log_uniform(0.1, 2), None))
    return one.graph_of(
        "MEAN",
        [draw.activation("x", shape, scale, zero)],
        draw.activation("y", tuple(kept if keep else dropped), output_scale, output_zero),
        {"axes": axes, "keep_dims": keep},
    )


def reshape(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    output = (1, shape[1] * shape[2], shape[3])
    return _same_parameters("RESHAPE", draw, shape, output, {"new_shape": output})


def transpose(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    permutation = (0, *(1 + draw.generator.permutation(3)).tolist())
    output = tuple(shape[axis] for axis in permutation)
    return _same_parameters("TRANSPOSE", draw, shape, output, {"permutation": permutation})


def pad(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    amounts = ((0, 0), *((draw.integer(0, 2), draw.integer(0, 2)) for _ in range(3)))
    output = tuple(size + sum(amount) for size, amount in zip(shape, amounts, strict=True))
    return _same_parameters("PAD", draw, shape, output, {"paddings": amounts})


def crop(draw: Draw) -> IntegerGraph:
    shape = draw.image()
    begin = (0, *(draw.integer(0, size - 1) for size in shape[1:]))
    size = tuple(draw.integer(1, n - b) for n, b in zip(shape, begin, strict=True))
    return _same_parameters("SLICE", draw, shape, size, {"begin": begin, "size": size})


def cast(draw: Draw) -> IntegerGraph:
    """Integers as numbers of places."""
    shape = draw.image()
    made = Tensor("y", shape, "int32", one.quantization(1.0), bits=32)
    return one.graph_of("CAST", [draw.activation("x", shape, draw.log_uniform(0.001, 0.3))], made)


def places(draw: Draw) -> IntegerGraph:
    """Numbers of places, and what is added to them."""
    shape, unit = draw.image(), one.quantization(1.0)
    amounts = draw.choice([1] * len(shape), (1, 1, 1, shape[3]), shape)
    shift = draw.generator.integers(-1000, 1001, amounts).astype(np.int32)
    given, made = (draw.activation(name, shape, 1.0) for name in "xy")
    constant = Tensor("z", shift.shape, "int32", unit, shift, 32)
    return one.graph_of("ADD", [given, constant], made, {"activation": "NONE"})


def gather(draw: Draw) -> IntegerGraph:
    rows, depth, length = draw.integer(2, 200), draw.integer(1, 9), draw.integer(1, 12)
    scale, zero, info = draw.log_uniform(0.001, 0.3), draw.integer(-128, 127), np.iinfo(draw.dtype)
    table = draw.activation("t", (rows, depth), scale, zero)
    values = draw.generator.integers(info.min, info.max + 1, table.shape).astype(draw.dtype)
    inputs = [
        dataclasses.replace(table, data=values, bits=info.bits),
        Tensor("x", (1, length), "int32", one.quantization(1.0), bits=32),
    ]
    return one.graph_of("GATHER", inputs, draw.activation("y", (1, length, depth), scale, zero))


def blocks(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        _, height, width, channels = draw.image()
        block = draw.integer(1, 3)
        wide = (1, height * block, width * block, channels)
        deep = (1, height, width, channels * block**2)
        shapes = (wide, deep) if kind == "SPACE_TO_DEPTH" else (deep, wide)
        return _same_parameters(kind, draw, *shapes, {"block_size": block})

    return build


def mirror_pad(draw: Draw) -> IntegerGraph:
    shape, mode = draw.image(), draw.choice("REFLECT", "SYMMETRIC")
    kept = int(mode == "REFLECT")
    most = [min(size - kept, 3) for size in shape[1:]]
    amounts = ((0, 0), *((draw.integer(0, each), draw.integer(0, each)) for each in most))
    output = tuple(size + sum(amount) for size, amount in zip(shape, amounts, strict=True))
    attributes = {"mode": mode, "paddings": amounts}
    return _same_parameters("MIRROR_PAD", draw, shape, output, attributes)


def pad_with(draw: Draw) -> IntegerGraph:
    graph = pad(draw)
    given, made = graph.tensors["x"], graph.tensors["y"]
    value = np.array([draw.integer(-128, 127)], draw.dtype)
    constant = dataclasses.replace(given, name="v", shape=(1,), data=value, bits=8 * value.itemsize)
    return one.graph_of("PADV2", [given, constant], made, graph.operators[0].attributes)


def resize(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        shape = draw.image()
        whole = (shape[1] * draw.integer(1, 4), shape[2] * draw.integer(1, 4))
        size = draw.choice(whole, (draw.integer(1, 17), draw.integer(1, 17)))
        # Kernels take one convention at most.
        corners, centers = draw.choice((False, False), (True, False), (False, True))
        attributes = {"size": size, "align_corners": corners, "half_pixel_centers": centers}
        return _same_parameters(kind, draw, shape, (1, *size, shape[3]), attributes)

    return build


def rescaled(kind: str) -> Callable[[Draw], IntegerGraph]:
    """One input, an output with parameters of its own."""

    def build(draw: Draw) -> IntegerGraph:
        shape, scale = draw.image(), draw.log_uniform(0.001, 0.3) * draw.step
        attributes: dict[str, Any] = {}
        if kind == "LEAKY_RELU":
            attributes["alpha"] = float(
                np.float32(draw.log_uniform(0.01, 1.3) * draw.choice(1, -1))
            )
        inputs = [draw.activation("x", shape, scale)]
        if kind == "GELU":
            attributes["approximate"] = draw.choice(True, False)
        if kind == "PRELU":
            slopes = draw.generator.integers(-127, 128, (1, 1, shape[3])).astype(np.int8)
            quantization = one.quantization(draw.log_uniform(0.001, 0.01))
            inputs.append(Tensor("a", slopes.shape, "int8", quantization, slopes))
        output = draw.activation("y", shape, scale * draw.log_uniform(0.2, 3))
        return one.graph_of(kind, inputs, output, attributes)

    return build


def quantize(draw: Draw) -> IntegerGraph:
    shape, scale, target = draw.image(), draw.log_uniform(0.001, 0.3), draw.choice("int8", "int16")
    output_scale = scale * STEP[target] * draw.log_uniform(0.2, 5)
    return one.graph_of(
        "QUANTIZE",
        [draw.activation("x", shape, scale * draw.step)],
        one.activation("y", shape, target, output_scale, draw.integer(-128, 127)),
    )


#: Operator -> output (scale, zero point) for int8 and int16, which the kernels demand.
FIXED = {
    "LOGISTIC": {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
    "TANH": {"int8": (1 / 128, 0), "int16": (1 / 32768, 0)},
    "SOFTMAX": {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
}


def fixed_output(kind: str) -> Callable[[Draw], IntegerGraph]:
    def build(draw: Draw) -> IntegerGraph:
        # The 16-bit kernels treat powers of two in a way of their own.
        scale = draw.choice(draw.log_uniform(0.001, 0.3) * draw.step, 2.0 ** -draw.integer(9, 15))
        shape = draw.choice(draw.image(), (1, draw.integer(1, 20)))
        output = draw.activation("y", shape, *FIXED[kind][draw.dtype])
        return one.graph_of(kind, [draw.activation("x", shape, scale)], output)

    return build


WEIGHTED: dict[str, Callable[..., IntegerGraph]] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "TRANSPOSE_CONV": transpose_conv,
}
BUILDERS: dict[str, Callable[..., IntegerGraph]] = {
    **WEIGHTED,
    **{kind: arithmetic(kind) for kind in ("ADD", "SUB", "MUL")},
    **{kind: extremum(kind) for kind in ("MAXIMUM", "MINIMUM")},
    "CONCATENATION": concatenation,
    **{kind: pool(kind) for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D")},
    "BATCH_MATMUL": batch_matmul,
    "SQUARED_DIFFERENCE": squared_difference,
    "RSQRT": rsqrt,
    "EXP": exponential,
    "STRIDED_SLICE": strided_slice,
    **{kind: extreme_of(kind) for kind in ("REDUCE_MAX", "REDUCE_MIN")},
    "ARG_MAX": arg_max,
    "MEAN": mean,
    "SUM": total,
    "RESHAPE": reshape,
    "TRANSPOSE": transpose,
    "PAD": pad,
    "PADV2": pad_with,
    "MIRROR_PAD": mirror_pad,
    "CAST": cast,
    "GATHER": gather,
    **{kind: blocks(kind) for kind in ("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")},
    "SLICE": crop,
    **{kind: resize(kind) for kind in ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR")},
    **{
        kind: rescaled(kind)
        for kind in ("RELU", "RELU6", "LEAKY_RELU", "PRELU", "HARD_SWISH", "ELU", "GELU", "ABS")
    },
    "QUANTIZE": quantize,
    **{kind: fixed_output(kind) for kind in FIXED},
}


def random_graph(kind: str, dtype: str, seed: int) -> IntegerGraph:
    return BUILDERS[kind](Draw(seed, dtype))
