"""Activations of 4 to 7 bits: what is said to keep to their codes does, whatever the integers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, Draw
from tflite_export.graph import codes
from tflite_export.graph.kinds import kind_of, known
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference

NARROW = st.integers(4, 7)


def narrowed(graph: IntegerGraph, name: str, bits: int, zero_point: int) -> IntegerGraph:
    """The same graph with fewer codes in one activation."""
    old = graph.tensors[name]
    quantization = dataclasses.replace(old.quantization, zero_point=zero_point)
    tensor = dataclasses.replace(old, bits=bits, quantization=quantization)
    return dataclasses.replace(graph, tensors={**graph.tensors, name: tensor})


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), given_bits=st.integers(4, 8), bits=NARROW, data=st.data())
def test_what_stays_within_its_codes_does(kind, seed, given_bits, bits, data):
    graph = BUILDERS[kind](Draw(seed, "int8"))
    names = [name for _, name in graph.inputs if graph.tensors[name].dtype == "int8"]
    zero = data.draw(st.integers(codes.lowest_code(given_bits), 127))
    for name in names:
        graph = narrowed(graph, name, given_bits, zero)
    lowest = codes.lowest_code(bits)
    made_zero = zero if kind_of(kind).ties else data.draw(st.sampled_from([lowest, lowest + 3, 0]))
    graph = narrowed(graph, "y", bits, made_zero)
    generator, samples = np.random.default_rng(seed), one.random_samples(graph, count=5, seed=seed)
    for array in (array for array in samples if array.dtype == np.int8):
        array[...] = generator.integers(codes.lowest_code(given_bits), 128, array.shape)
    found = reference.run(graph, samples)["y"]
    if codes.stays_within(graph.operators[0], graph.tensors):
        assert found.min() >= lowest


@pytest.mark.parametrize("kind", [kind for kind in known() if kind_of(kind).ties])
def test_operators_that_move_integers_keep_their_codes(kind):
    graph = BUILDERS[kind](Draw(3, "int8"))
    names = [name for _, name in graph.inputs if graph.tensors[name].dtype == "int8"]
    for name in (*names, "y"):
        graph = narrowed(graph, name, 5, 100)
    constants = [tensor.data.min() for tensor in graph.constants(graph.operators[0])]
    are_narrow = min(constants, default=127) >= codes.lowest_code(5)
    assert codes.stays_within(graph.operators[0], graph.tensors) == are_narrow
    if not names:
        return
    wider = narrowed(graph, graph.inputs[0][1], 6, 100)
    # The larger of a narrow and a wide tensor is narrow; nothing else of the kind is.
    assert codes.stays_within(wider.operators[0], wider.tensors) == (kind == "MAXIMUM")


@pytest.mark.parametrize(
    ("activation", "zero_point", "expected"),
    [("RELU", 112, True), ("RELU6", 120, True), ("RELU", 111, False), ("NONE", 112, False)],
)
def test_a_fused_relu_bounds_the_codes_by_the_zero_point(activation, zero_point, expected):
    graph = BUILDERS["ADD"](Draw(0, "int8"))
    operator = dataclasses.replace(graph.operators[0], attributes={"activation": activation})
    graph = narrowed(graph, "y", 4, zero_point)
    assert codes.stays_within(operator, graph.tensors) == expected


def test_a_graph_that_may_leave_its_codes_is_refused_by_name():
    graph = narrowed(BUILDERS["LEAKY_RELU"](Draw(0, "int8")), "y", 4, 112)
    with pytest.raises(ValueError, match="LEAKY_RELU of layer 'layer': may write codes below 112"):
        validated(graph)
    graph = BUILDERS["RELU"](Draw(0, "int8"))
    graph = narrowed(graph, graph.inputs[0][1], 4, 112)
    with pytest.raises(ValueError, match="input 'x' has 4 bits, but callers may pass any"):
        validated(graph)


@pytest.mark.parametrize("runtime", ["litert-reference", "litert", "tflm"])
def test_runtimes_clamp_by_a_maximum_with_a_constant(runtime):
    if runtime == "tflm":
        pytest.importorskip("tflite_micro")
    shape = (1, 9, 7, 5)
    wide = one.activation("x", shape, "int8", 0.1, 120)
    lowest = dataclasses.replace(
        wide, name="lowest", shape=(1, 1, 1, 1), data=np.full((1, 1, 1, 1), 112, np.int8)
    )
    narrow = dataclasses.replace(wide, name="y", bits=4)
    operator = Operator("MAXIMUM", ("x", "lowest"), ("y",), "layer")
    tensors = {tensor.name: tensor for tensor in (wide, lowest, narrow)}
    graph = validated(IntegerGraph("clamp", tensors, (operator,), (("x", "x"),), (("y", "y"),)))
    samples = one.random_samples(graph, count=8)
    found = one.in_runtime(graph, samples, runtime=runtime)
    np.testing.assert_array_equal(found, np.maximum(samples[0], 112))
    assert set(np.unique(found)) == set(range(112, 128))
