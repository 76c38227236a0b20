"""Logistic, tanh and softmax: every input integer, and the functions they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import FIXED
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import tolerance
from tflite_export.graph.structure import IntegerGraph
from tflite_export.runtimes import reference

EVERY = {
    dtype: np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    for dtype in ("int8", "int16")
}
SCALES = [2.0**-12, 2.0**-11, 2.0**-10, 0.00037, 0.01]
FUNCTIONS = {"LOGISTIC": special.expit, "TANH": np.tanh}
#: Largest error of the fixed-point kernels in LSB, against the real function.
ACCURACY = {"int8": 0.51, "int16": 2.7}


def curve(kind: str, dtype: str, scale: float, shape: tuple[int, ...]) -> IntegerGraph:
    source = one.activation("x", shape, dtype, scale, 7)
    return one.graph_of(kind, [source], one.activation("y", shape, dtype, *FIXED[kind][dtype]))


def every_integer(kind: str, dtype: str, scale: float) -> tuple[IntegerGraph, np.ndarray]:
    every = EVERY[dtype][None]
    # An int8 step is coarser, so that both types cover where the functions bend.
    return curve(kind, dtype, scale * (64 if dtype == "int8" else 1), every.shape), every


@pytest.mark.parametrize("scale", [*SCALES, 2.0**-12 * 1.0003, 2.0**-11 * 0.9997])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_integer_equals_the_reference_kernel(kind, dtype, scale):
    """The last two scales are taken for powers of two, which they nearly are."""
    graph, every = every_integer(kind, dtype, scale)
    expected = reference.run(graph, [every])["y"].astype(np.int64)
    found = one.in_runtime(graph, [every]).astype(np.int64)
    case = Case.of(graph.operators[0], graph.tensors)
    assert np.abs(found - expected).max() <= tolerance("litert-reference", case)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_curves_are_near_the_real_functions(kind, dtype, scale):
    graph, every = every_integer(kind, dtype, scale)
    quantization = graph.tensors["x"].quantization
    real = (every - np.int64(quantization.zero_point)) * quantization.scale
    output_scale, output_zero = FIXED[kind][dtype]
    info = np.iinfo(dtype)
    ideal = np.clip(FUNCTIONS[kind](real) / output_scale + output_zero, info.min, info.max)
    assert np.abs(reference.run(graph, [every])["y"] - ideal).max() <= ACCURACY[dtype]


@pytest.mark.parametrize(("dtype", "scale"), [("int8", 0.05), ("int16", 0.0003)])
def test_softmax_shares_are_near_the_real_ones(dtype, scale):
    graph = curve("SOFTMAX", dtype, scale, (1, 5, 11))
    samples = one.random_samples(graph, count=6)
    output_scale, output_zero = FIXED["SOFTMAX"][dtype]
    shares = (reference.run(graph, samples)["y"].astype(np.float64) - output_zero) * output_scale
    real = special.softmax(samples[0] * np.float64(np.float32(scale)), axis=-1)
    assert np.abs(shares - real).max() <= {"int8": 0.51 / 256, "int16": 20 / 32768}[dtype]


def test_a_large_scale_saturates_softmax():
    graph = curve("SOFTMAX", "int8", 50.0, (1, 4))
    values = np.array([[1, 5, 5, -3]], np.int8)
    np.testing.assert_array_equal(reference.run(graph, [values])["y"], [[-128, 0, 0, -128]])
    np.testing.assert_array_equal(one.in_runtime(graph, [values]), [[-128, 0, 0, -128]])
