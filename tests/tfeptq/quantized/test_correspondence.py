"""Tensors of the canonical and the quantized model are paired by what they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from tests.tfeptq import shared_models, small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.linear import is_weighted
from tfeptq.config import QuantizationConfig
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.quantized.correspondence import corresponding_tensors, require_equal
from tfeptq.quantized.wrap import wrap
from tfeptq.quantized.wrappers import QuantizedWeights

WIDTH = 5


def wrapped(canonical: keras.Model) -> QuantizedModel:
    return QuantizedModel(*wrap(QuantizationPlan.of(canonical, QuantizationConfig())))


def random_graph(steps: list[tuple[int, int, int]], outputs: list[int]) -> keras.Model:
    """Dense layers and sums over everything made so far.

    Args:
        steps: (which layer; beyond the layers there are: a sum, which tensor, which other tensor).
        outputs: which tensors, beside the last one.
    """
    keras.utils.set_random_seed(0)
    shared = [L.Dense(WIDTH, bias_initializer="random_normal", name=f"d{i}") for i in range(3)]
    tensors = inputs = [keras.Input((WIDTH,), name=name) for name in "ab"]
    for layer, one, other in steps:
        source, second = tensors[one % len(tensors)], tensors[other % len(tensors)]
        made = L.Add()([source, second]) if layer >= len(shared) else shared[layer](source)
        tensors = [*tensors, L.ReLU()(made) if other % 2 else made]
    ends = [tensors[-1], *[tensors[len(inputs) + index % len(steps)] for index in outputs]]
    return keras.Model(inputs, [L.Dense(2)(end) for end in dict.fromkeys(ends)])


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1)


@settings(max_examples=25)
@given(STEPS, st.lists(st.integers(0, 9), max_size=2))
def test_paired_tensors_have_equal_values_in_every_graph_of_shared_layers(steps, outputs):
    canonical = prepare(random_graph(steps, outputs))
    quantized = wrapped(canonical)
    inputs = shared_models.samples(canonical, 4)
    require_equal(canonical, quantized, inputs)
    float_graph, graph = LayerGraph.of(canonical), LayerGraph.of(quantized)
    pairs = corresponding_tensors(float_graph, graph)
    assert set(pairs) == {*float_graph.inputs, *(call.output for call in float_graph.calls)}
    assert len(set(pairs.values())) == len(pairs)
    # The model as it is with 8-bit weights and float activations: other calls are far from that.
    for layer in quantized.weighted_layers:
        layer.set_step(np.full(layer.step.shape, np.abs(layer.float_kernel).max() / 127))
    for quantizer in quantized.activation_quantizers:
        quantizer.float_share.assign(1.0)
    expected, found = (g.execute([tf.constant(x) for x in inputs]) for g in (float_graph, graph))
    for key, other in pairs.items():
        scale = max(np.abs(expected[key]).max(), 1.0)
        np.testing.assert_allclose(found[other], expected[key], atol=0.1 * scale)


@pytest.mark.parametrize("name", shared_models.MODELS)
def test_shared_layers_of_all_kinds_are_paired(name):
    canonical = prepare(shared_models.shared(name))
    quantized = wrapped(canonical)
    require_equal(canonical, quantized, shared_models.samples(canonical, 2))
    graph = LayerGraph.of(canonical)
    calls = [call.output[0] for call in graph.calls if is_weighted(call.layer)]
    assert max(calls.count(each) for each in calls) >= 2


def test_pairs_are_found_again_in_a_loaded_model(tmp_path):
    canonical = prepare(shared_models.shared("towers"))
    quantized = wrapped(canonical)
    quantized.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    graphs = [LayerGraph.of(model) for model in (canonical, quantized, loaded)]
    before, after = (corresponding_tensors(graphs[0], graph) for graph in graphs[1:])
    assert set(before) == set(after)
    # Keras walks through the two models in different orders: the numbers alone would not do.
    assert any(key != other for key, other in after.items() if key[0] == "embed")


def test_a_difference_names_the_layer():
    canonical, data = prepare(small_models.residual_network()), small_models.images(3)
    quantized = wrapped(canonical)
    require_equal(canonical, quantized, [data])
    kernel = quantized.get_layer("pointwise").layer.kernel
    kernel.assign(kernel.numpy() * 1.01)
    with pytest.raises(ValueError, match="layer 'pointwise': its quantized copy differs"):
        require_equal(canonical, quantized, [data])


def test_models_of_other_calls_are_refused_by_layer():
    quantized = wrapped(prepare(shared_models.shared("repeated")))
    other = prepare(shared_models.shared("alternating"))
    assert any(isinstance(layer, QuantizedWeights) for layer in quantized.layers)
    with pytest.raises(ValueError, match=r"layer 'left' is called 1 times.*and 0 times"):
        corresponding_tensors(LayerGraph.of(other), LayerGraph.of(quantized))
