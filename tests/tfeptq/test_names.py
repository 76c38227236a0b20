"""Names are for people: what a layer is called changes no integer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
from tests.tfeptq.preparation.canonical_check import randomize
from tests.tfeptq.preparation.random_graphs import RandomGraph
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.selection.skeleton import rounded
from tflite_export import IntegerGraph


def siamese(last: str) -> tuple[keras.Model, list[np.ndarray]]:
    """A shared layer on two inputs, whose difference is small and then magnified."""
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    shared, head = L.Dense(16, name="dense"), L.Dense(4, name=last)
    model = keras.Model([left, right], head(L.Subtract(name="gap")([shared(left), shared(right)])))
    head.kernel.assign(head.kernel * 40)
    generator = np.random.default_rng(0)
    return model, [generator.normal(size=(64, 8)).astype("float32") for _ in range(2)]


def test_a_layer_may_be_named_like_the_second_call_of_another():
    outputs = {}
    for last in ("head", "dense_1"):
        model, samples = siamese(last)
        config = tfeptq.QuantizationConfig(rounding="nearest", samples=64)
        outputs[last] = tfeptq.quantize(model, samples, config).predict(samples, verbose=0)
    np.testing.assert_array_equal(outputs["head"], outputs["dense_1"])


def test_a_layer_may_be_named_like_a_quantizer_or_a_border():
    inputs = keras.Input((4,), name="x")
    hidden = L.Dense(4, name="x_quantizer")(inputs)
    outputs = L.Dense(4, name="x_to_int8")(L.ReLU(name="x_quantizer_quantizer")(hidden))
    model = keras.Model(inputs, outputs)
    samples = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    widths = {"x": 16, "x_quantizer": 16, "x_to_int8": 8}
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32, activation_bits=widths)
    quantized = tfeptq.quantize(model, samples, config)
    expected = model.predict(samples, verbose=0)
    found = quantized.predict(samples, verbose=0)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert quantized.bit_widths["x_to_int8"] == (8, 8)


def renamed(model: keras.Model, pool: list[str], generator: np.random.Generator) -> None:
    """Gives every layer and operation, nested ones too, a name of the pool."""
    for operation in model.operations:
        if isinstance(operation, keras.Model):
            renamed(operation, pool, generator)
    inputs = {op.name for op in model.operations if isinstance(op, L.InputLayer)}
    free = [name for name in generator.permutation(pool) if name not in inputs]
    for operation in model.operations:
        if not isinstance(operation, L.InputLayer):
            operation.name = free.pop()


def made_up(model: keras.Model, graph: IntegerGraph) -> list[str]:
    """Every name that was made up on the way to a file, and names that follow from them."""
    names = {layer.name for layer in prepare(model).layers}
    names |= {name.replace("/", "_") for name in graph.tensors}
    names |= {operator.layer for operator in graph.operators}
    quantizers = {f"{name}_quantizer" for name in names} | {f"{name}_to_int8" for name in names}
    return sorted(names | quantizers | {f"{name}_1" for name in names})


def integers(graph: IntegerGraph) -> list[object]:
    """A graph without its names: operators, and tensors by the order in which they are written."""
    order = {name: index for index, name in enumerate(graph.tensors)}
    tensors = [
        (
            *(t.shape, t.dtype, t.bits, t.quantization.scale.tobytes(), t.quantization.zero_point),
            None if t.data is None else t.data.tobytes(),
        )
        for t in graph.tensors.values()
    ]
    operators = [
        (o.kind, [order[n] for n in o.inputs], [order[n] for n in o.outputs], dict(o.attributes))
        for o in graph.operators
    ]
    ends = [[order[name] for _, name in pairs] for pairs in (graph.inputs, graph.outputs)]
    return [*tensors, *operators, *ends]


def without_data(model: keras.Model, bits: int) -> IntegerGraph:
    canonical = prepare(model)
    config = tfeptq.QuantizationConfig(activation_bits=bits)
    return rounded(QuantizationPlan.of(canonical, config))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([8, 8, 5, 16]))
def test_names_change_no_integer_of_random_models(seed, bits):
    keras.utils.set_random_seed(0)
    model = randomize(RandomGraph(seed).model(6), seed)
    wanted = without_data(model, bits)
    renamed(model, made_up(model, wanted), np.random.default_rng(seed))
    assert integers(without_data(model, bits)) == integers(wanted)


@pytest.mark.parametrize("seed", range(2))
def test_names_change_nothing_that_is_learned_from_data(seed):
    keras.utils.set_random_seed(0)
    model = randomize(RandomGraph(seed).model(5), seed)
    generator = np.random.default_rng(seed)
    samples = [generator.normal(size=(8, *t.shape[1:])).astype("float32") for t in model.inputs]
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=8, threshold="max")
    wanted = tfeptq.quantize(model, samples, config).freeze()
    renamed(model, made_up(model, wanted), generator)
    assert integers(tfeptq.quantize(model, samples, config).freeze()) == integers(wanted)
