"""What the distillation computes is what the quantized model does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.rounding.quick_graph import quick_graph

CONFIG = QuantizationConfig(weight_bits=4, rounding="nearest", samples=16)


def network(last):
    """ReLUs behind layers and behind a sum, one that two read, one with a slope, one at the end."""
    inputs = keras.Input((8, 8, 3))
    tensor = L.ReLU(6.0)(L.Conv2D(4, 3, padding="same")(inputs))
    branch = L.ReLU()(L.Conv2D(4, 3, padding="same")(tensor))
    tensor = L.ReLU()(L.Add()([tensor, L.Conv2D(4, 1)(branch)]))
    tensor = L.LeakyReLU(0.25)(L.Conv2D(4, 3)(tensor))
    return keras.Model(inputs, last(L.Dense(5)(L.GlobalAveragePooling2D()(tensor))))


@pytest.mark.parametrize("last", [L.ReLU(), L.ReLU(6.0), L.Softmax(), L.Activation("linear")])
def test_tensors_are_those_of_the_whole_graph(last):
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    quantized = quantize(network(last), data, CONFIG)
    graph = LayerGraph.of(quantized)
    quick = quick_graph(graph, [])
    assert 3 <= len(graph.calls) - len(quick.calls) <= 4
    # What somebody else reads stays, whatever it is.
    whole = quick_graph(graph, [call.output for call in graph.calls]).execute([data])
    assert whole.keys() == graph.execute([data]).keys()
    found = quick.execute([data])
    missing = whole.keys() - found.keys()
    assert all(isinstance(quantized.get_layer(name), L.ReLU) for name, _ in missing)
    for key, tensor in found.items():
        np.testing.assert_array_equal(tensor, whole[key])


def test_a_model_that_ends_in_a_relu_is_trained():
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    model = network(L.ReLU())
    quantized = quantize(model, data, QuantizationConfig(weight_bits=4, steps=4, samples=16))
    assert len(quantized.report.training) == 4
