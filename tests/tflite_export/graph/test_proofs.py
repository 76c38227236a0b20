"""The bounds of `graph.limits`: runtimes are exact within them and fail beyond them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import FIXED, WEIGHTED, Draw, random_graph
from tflite_export.file.writer import write
from tflite_export.graph import limits
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import kind_of, known, tolerance
from tflite_export.graph.proofs import prove
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.operators.sums import accumulators
from tflite_export.operators.windows import windows
from tflite_export.runtimes import reference
from tflite_export.runtimes.input_ranges import input_ranges
from tflite_export.runtimes.sessions import RUNTIMES, open_session

INSTALLED = [
    name for name in ("litert", "litert-reference", "tflm") if not RUNTIMES[name].missing()
]
#: Operators whose arithmetic depends on scales. Softmax has rules of its own.
SCALED = sorted(kind for kind in known() if not kind_of(kind).ties and kind != "SOFTMAX")


def with_scale(graph: IntegerGraph, name: str, scale: np.ndarray | float) -> IntegerGraph:
    tensor = graph.tensors[name]
    changed = dataclasses.replace(
        tensor.quantization, scale=np.atleast_1d(np.asarray(scale, np.float32))
    )
    tensor = dataclasses.replace(tensor, quantization=changed)
    return dataclasses.replace(graph, tensors={**graph.tensors, name: tensor})


def scaled(graph: IntegerGraph, name: str, factor: float) -> IntegerGraph:
    return with_scale(graph, name, graph.tensors[name].quantization.scale * np.float64(factor))


#: Its bounds are the strictest.
RUNTIMES = ("litert-reference", "tflm")


def is_proven(graph: IntegerGraph) -> bool:
    try:
        prove(graph, runtimes=RUNTIMES)
    except ValueError:
        return False
    return True


def extreme_samples(graph: IntegerGraph) -> list[np.ndarray]:
    samples = one.random_samples(graph, count=4)
    for array, (low, high) in zip(samples, input_ranges(graph), strict=True):
        array[:1], array[1:2] = low, high
    return samples


def with_extreme_scale(kind: str, dtype: str, seed: int, exponent: float) -> IntegerGraph:
    """A random graph whose input or output has a scale that is 2^exponent of a usual one."""
    graph = random_graph(kind, dtype, seed)
    name = "x" if kind in FIXED or seed % 3 == 0 else "y"
    graph = scaled(graph, name, 2.0**exponent)
    return scaled(graph, "b", 2.0**exponent) if name == "x" and "b" in graph.tensors else graph


@settings(max_examples=150)
@given(
    kind=st.sampled_from(SCALED),
    dtype=st.sampled_from(["int8", "int16"]),
    seed=st.integers(0, 10**6),
    exponent=st.floats(-45, 45),
)
def test_what_is_proven_is_right_in_every_runtime(kind, dtype, seed, exponent):
    graph = with_extreme_scale(kind, dtype, seed, exponent)
    if not is_proven(graph):
        return
    samples = extreme_samples(graph)
    expected = reference.run(graph, samples)["y"].astype(np.int64)
    for runtime in INSTALLED:
        if (kind, runtime) == ("RELU6", "tflm") or not one.executes(runtime, graph):
            continue  # The first never rescales there, which the capability table says.
        found = open_session(write(graph), runtime)(samples)[0]
        difference = np.abs(found - expected).max()
        assert difference <= tolerance(runtime, Case.of(graph.operators[0], graph.tensors)), runtime


def exact_sums(graph: IntegerGraph, samples: list[np.ndarray]) -> list[list[Fraction]]:
    """Pre-activations of a dense layer in units of its output, without any rounding."""
    source, weights, bias, output = (graph.tensors[name] for name in "xwby")
    scales = weights.quantization.scale
    rows = samples[0].astype(object) - source.quantization.zero_point
    return [
        [
            (sum(x * int(w) for x, w in zip(row, column, strict=True)) + int(b))
            * Fraction(float(source.quantization.scale[0]))
            * Fraction(float(scales[c % scales.size]))
            / Fraction(float(output.quantization.scale[0]))
            for c, (column, b) in enumerate(zip(weights.data, bias.data, strict=True))
        ]
        for row in rows.reshape(-1, rows.shape[-1])
    ]


@settings(max_examples=400)
@given(
    dtype=st.sampled_from(["int8", "int16"]),
    seed=st.integers(0, 10**6),
    exponent=st.floats(-30, 30),
    bias=st.integers(0, 39),
)
def test_what_is_proven_is_right_in_exact_arithmetic(dtype, seed, exponent, bias):
    graph = plain(WEIGHTED["FULLY_CONNECTED"](Draw(seed, dtype)))
    graph = with_bias(graph, [(-1) ** c * 2**bias for c in range(graph.tensors["b"].shape[0])])
    graph = scaled(graph, "y", 2.0**exponent)
    if not is_proven(graph):
        return
    samples = extreme_samples(graph)
    found = reference.run(graph, samples)["y"].reshape(-1, graph.tensors["w"].shape[0])
    info, zero_point = np.iinfo(dtype), graph.tensors["y"].quantization.zero_point
    for row, sums in zip(found, exact_sums(graph, samples), strict=True):
        for value, exact in zip(row, sums, strict=True):
            wanted = min(max(exact + zero_point, info.min), info.max)
            assert abs(int(value) - wanted) <= Fraction(1, 2) + abs(exact) * Fraction(1, 2**30)


def plain(graph: IntegerGraph) -> IntegerGraph:
    """Without a fused activation."""
    operator = graph.operators[0]
    operator = dataclasses.replace(
        operator, attributes={**operator.attributes, "activation": "NONE"}
    )
    return dataclasses.replace(graph, operators=(operator,))


def with_bias(graph: IntegerGraph, values: list[int]) -> IntegerGraph:
    bias = graph.tensors["b"]
    limit = np.iinfo(bias.dtype).max
    data = np.clip(np.array(values, np.int64), -limit, limit).astype(bias.dtype)
    return dataclasses.replace(
        graph, tensors={**graph.tensors, "b": dataclasses.replace(bias, data=data)}
    )


@given(kind=st.sampled_from(sorted(WEIGHTED)), seed=st.integers(0, 10**6))
def test_sums_are_those_of_the_worst_inputs(kind, seed):
    graph = plain(WEIGHTED[kind](Draw(seed, "int8")))
    axis = kind_of(kind).channel_axis
    source, weights = graph.tensors["x"], graph.tensors["w"]
    low, high = accumulators(source, weights, axis)
    zero_point = source.quantization.zero_point
    for channel, kernel in enumerate(np.moveaxis(weights.data, axis, 0)):
        worst = np.where(kernel > 0, 127, -128).astype(int) - zero_point
        best = np.where(kernel > 0, -128, 127).astype(int) - zero_point
        assert high[channel] == (worst * kernel).sum()
        assert low[channel] == (best * kernel).sum()


def activation_pair(kind: str, dtype: str, scale: float, output: float) -> IntegerGraph:
    shape = (1, 16, 16, 2)
    inputs = [one.activation("x", shape, dtype, scale)]
    if kind in ("ADD", "SUB", "MUL"):
        inputs.append(one.activation("z", shape, dtype, scale))
    attributes = {"activation": "NONE"} if kind in ("ADD", "SUB", "MUL") else {}
    fixed = FIXED.get(kind, {}).get(dtype)
    made = one.activation("y", shape, dtype, *(fixed or (output, 0)))
    return one.graph_of(kind, inputs, made, attributes)


def convolution(multiplier: float, bias: int = 0) -> IntegerGraph:
    graph = plain(WEIGHTED["CONV_2D"](Draw(1, "int8"), per_channel=False))
    count = graph.tensors["b"].shape[0]
    graph = with_bias(graph, [bias] * count)
    unit = graph.tensors["x"].quantization.scale[0] * graph.tensors["w"].quantization.scale[0]
    return with_scale(graph, "y", unit / np.float32(multiplier))


def wide_mean(kind: str, positions: int) -> IntegerGraph:
    shape = (1, positions, 1, 1)
    source = one.activation("x", shape, "int16", 0.01)
    if kind == "MEAN":
        made = one.activation("y", (1, 1), "int16", 0.01)
        return one.graph_of(kind, [source], made, {"axes": (1, 2), "keep_dims": False})
    window = {"padding": "VALID", "stride_h": 1, "stride_w": 1}
    made = one.activation("y", (1, 1, 1, 1), "int16", 0.01)
    attributes = window | {"filter_h": positions, "filter_w": 1}
    return one.graph_of(kind, [source], made, attributes)


def relu6_dense(scale: float) -> IntegerGraph:
    graph = WEIGHTED["FULLY_CONNECTED"](Draw(1, "int8"), per_channel=False)
    attributes = {**graph.operators[0].attributes, "activation": "RELU6"}
    operator = dataclasses.replace(graph.operators[0], attributes=attributes)
    graph = dataclasses.replace(graph, operators=(operator,))
    names = ("x", "b", "y")
    factor = scale / float(graph.tensors["y"].quantization.scale[0])
    for name in names:
        graph = scaled(graph, name, factor)
    return graph


#: What is wrong -> (within, beyond, part of the sentence, a runtime that shows it).
BOUNDS = {
    "multiplier": (convolution(255.0), convolution(257.0), "output scale", "litert"),
    "bias": (
        convolution(2.0**-25, 2**31 - 2**22),
        convolution(2.0**-25, 2**31 - 2**8),
        "the sum of products and bias",
        "litert-reference",
    ),
    "shift": (
        convolution(100.0, 2**23),
        convolution(100.0, 2**25),
        "the result before",
        "litert-reference",
    ),
    "sum": (
        activation_pair("ADD", "int8", 0.1, 0.21 * 2.0**-9),
        activation_pair("ADD", "int8", 0.1, 0.19 * 2.0**-9),
        "twice its larger input scale",
        "litert",
    ),
    "wide sum": (
        activation_pair("ADD", "int16", 0.1, 0.21 * 2.0**-15),
        activation_pair("ADD", "int16", 0.1, 0.19 * 2.0**-15),
        "twice its larger input scale",
        "litert-reference",
    ),
    "product": (
        activation_pair("MUL", "int16", 0.1, 0.011),
        activation_pair("MUL", "int16", 0.1, 0.004),
        "the result before",
        "litert-reference",
    ),
    "rescaling": (
        activation_pair("RELU", "int8", 0.1, 0.11 * 2.0**-23),
        activation_pair("RELU", "int8", 0.1, 0.09 * 2.0**-25),
        "the result before",
        "litert-reference",
    ),
    "hard swish": (
        activation_pair("HARD_SWISH", "int8", 0.1, 0.11 / 128),
        activation_pair("HARD_SWISH", "int8", 0.1, 0.09 / 128),
        "its input scale / its output scale",
        "litert-reference",
    ),
    "hard swish input": (
        activation_pair("HARD_SWISH", "int8", 2.0**20, 2.0**20),
        activation_pair("HARD_SWISH", "int8", 2.0**27, 2.0**27),
        "its input scale",
        "litert-reference",
    ),
    "logistic": (
        activation_pair("LOGISTIC", "int8", 3.9, 1.0),
        activation_pair("LOGISTIC", "int8", 8.0, 1.0),
        "its input scale",
        "tflm",
    ),
    "tanh": (
        activation_pair("TANH", "int8", 2.0**-26, 1.0),
        activation_pair("TANH", "int8", 2.0**-29, 1.0),
        "its input scale",
        "tflm",
    ),
    "wide logistic": (
        activation_pair("LOGISTIC", "int16", 4.0, 1.0),
        activation_pair("LOGISTIC", "int16", 8.0, 1.0),
        "its input scale",
        "litert-reference",
    ),
    "relu6": (
        relu6_dense(2.0**-28),
        relu6_dense(2.0**-30),
        "under ReLU6",
        "litert-reference",
    ),
    "mean": (
        wide_mean("MEAN", 2**16),
        wide_mean("MEAN", 2**16 + 2**10),
        "positions",
        "litert-reference",
    ),
    "average": (
        wide_mean("AVERAGE_POOL_2D", 65000),
        wide_mean("AVERAGE_POOL_2D", 2**16 + 2**10),
        "positions",
        "litert-reference",
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_where_kernels_fail(name):
    """Not only refused beyond, but wrong or dead there: the bounds refuse little for nothing."""
    within, beyond, words, runtime = BOUNDS[name]
    prove(within, runtimes=RUNTIMES)
    assert deviation(within, runtime) <= 1
    with pytest.raises(ValueError, match=rf"layer 'layer': .*{words}.* allowed is"):
        prove(beyond, runtimes=RUNTIMES)
    if runtime in INSTALLED:
        assert deviation(beyond, runtime) > 1


def deviation(graph: IntegerGraph, runtime: str) -> float:
    """Largest error against exact arithmetic in LSB; infinite where the runtime refuses or dies."""
    if runtime not in INSTALLED:
        return 0.0
    samples = extreme_samples(graph)
    try:
        found = tflite_export.run(write(graph), samples, runtime=runtime)
    except ValueError:
        return np.inf
    return float(np.abs(found - exact(graph, samples)).max())


def exact(graph: IntegerGraph, samples: list[np.ndarray]) -> np.ndarray:
    """The operator in float64, rounded once."""
    operator, output = graph.operators[0], graph.tensors["y"]
    unit = float(output.quantization.scale[0])
    values = _REAL[operator.kind](
        graph, [_dequantized(graph, n, s) for n, s in _fed(graph, samples)]
    )
    codes = np.round(values / unit) + output.quantization.zero_point
    if operator.attributes.get("activation") == "RELU6":
        codes = np.maximum(codes, output.quantization.zero_point)
    info = np.iinfo(output.dtype)
    return np.clip(codes, info.min, info.max)


def _fed(graph: IntegerGraph, samples: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(name, s) for (_, name), s in zip(graph.inputs, samples, strict=True)]


def _dequantized(graph: IntegerGraph, name: str, integers: np.ndarray) -> np.ndarray:
    quantization = graph.tensors[name].quantization
    return (integers.astype(np.float64) - quantization.zero_point) * quantization.scale[0]


def _weighted_sums(graph: IntegerGraph, inputs: list[np.ndarray]) -> np.ndarray:
    source, weights, bias, output = (graph.tensors[name] for name in "xwby")
    centred = np.round(inputs[0] / source.quantization.scale[0])
    kernel, attributes = weights.data.astype(np.float64), graph.operators[0].attributes
    if graph.operators[0].kind == "FULLY_CONNECTED":
        sums = centred.reshape(-1, kernel.shape[1]) @ kernel.T
    else:
        view = windows(centred, kernel.shape[1:3], attributes, fill=0)
        sums = np.einsum("nhwcij,oijc->nhwo", view, kernel)
    unit = np.float64(source.quantization.scale[0]) * weights.quantization.scale[0]
    return ((sums + bias.data) * unit).reshape(-1, *output.shape[1:])


_REAL = {
    "CONV_2D": _weighted_sums,
    "FULLY_CONNECTED": _weighted_sums,
    "ADD": lambda graph, inputs: inputs[0] + inputs[1],
    "MUL": lambda graph, inputs: inputs[0] * inputs[1],
    "RELU": lambda graph, inputs: np.maximum(inputs[0], 0.0),
    "HARD_SWISH": lambda graph, inputs: inputs[0] * np.clip(inputs[0] / 6.0 + 0.5, 0.0, 1.0),
    "LOGISTIC": lambda graph, inputs: 1.0 / (1.0 + np.exp(-np.clip(inputs[0], -500.0, 500.0))),
    "TANH": lambda graph, inputs: np.tanh(inputs[0]),
    "MEAN": lambda graph, inputs: inputs[0].mean(axis=(1, 2)),
    "AVERAGE_POOL_2D": lambda graph, inputs: inputs[0].mean(axis=(1, 2), keepdims=True),
}


def test_scales_beyond_float32s_products_are_refused():
    graph = activation_pair("RELU", "int8", 2.0**-70, 2.0**-70)
    with pytest.raises(ValueError, match=r"tensor 'x': its scales go from"):
        prove(graph)
    assert limits.LOWEST_SCALE**2 >= limits.LOWEST_UNIT


def test_what_only_tflm_cannot_hold_is_no_matter_elsewhere():
    graph = activation_pair("LOGISTIC", "int8", 8.0, 1.0)
    prove(graph, runtimes=("litert-reference", "litert"))
    assert deviation(graph, "litert") <= 1
    with pytest.raises(ValueError, match="its input scale"):
        prove(graph, runtimes=RUNTIMES)


def root_behind(kind: str, dtype: str) -> IntegerGraph:
    """A reciprocal root of what an operator makes of the input."""
    shape = (1, 4, 5, 3)
    tensors = {name: one.activation(name, shape, dtype, 0.01) for name in ("x", "hidden", "y")}
    operators = (
        Operator(kind, ("x",), ("hidden",), "first"),
        Operator("RSQRT", ("hidden",), ("y",), "layer"),
    )
    return IntegerGraph("root", tensors, operators, (("x", "x"),), (("y", "y"),))


def test_roots_need_numbers_that_are_not_negative():
    """Kernels end the inference at a negative number, which a ReLU rules out."""
    for dtype in ("int8", "int16"):
        prove(root_behind("RELU", dtype))
        with pytest.raises(ValueError, match=r"'hidden' may be negative, .* put a ReLU before it"):
            prove(root_behind("ABS", dtype))
    directly = random_graph("RSQRT", "int8", 0)
    prove(directly)
    signed = one.activation("x", directly.tensors["x"].shape, "int8", 0.1, 0)
    with pytest.raises(ValueError, match="'x' may be negative"):
        prove(dataclasses.replace(directly, tensors={**directly.tensors, "x": signed}))
    if "tflm" in INSTALLED:
        negative = np.full((1, *signed.shape[1:]), -1, np.int16)
        with pytest.raises(ValueError, match="positive values"):
            open_session(write(random_graph("RSQRT", "int16", 0)), "tflm")([negative])
