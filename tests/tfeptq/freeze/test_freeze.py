"""Freezing: the learned integers and scales, in the file's layout, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
from tests.tfeptq import small_models
from tfeptq.model import QuantizedModel
from tfeptq.quantized.wrappers import QuantizedWeights

CONFIG = {"rounding": "nearest", "threshold": "max", "samples": 32}
WEIGHTED = ("stem", "depthwise", "pointwise", "skip", "classes")


def quantized(model: keras.Model, samples: np.ndarray, **settings) -> QuantizedModel:
    return tfeptq.quantize(model, samples, tfeptq.QuantizationConfig(**CONFIG, **settings))


@pytest.fixture(scope="module")
def residual():
    model = small_models.residual_network()
    return quantized(model, small_models.images(32), weight_bits=4, first_last_bits=None)


def operator(graph, layer: str):
    return next(found for found in graph.operators if found.layer == layer)


#: Layer -> Keras's axes of its kernel in the order of the file's.
AXES = {"stem": (3, 0, 1, 2), "pointwise": (3, 0, 1, 2), "skip": (3, 0, 1, 2), "classes": (1, 0)}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_the_layers_integers_in_the_files_layout(residual, name):
    graph, layer = residual.freeze(), residual.get_layer(name)
    weights = graph.tensors[operator(graph, name).inputs[1]]
    if name == "depthwise":
        expected = layer.integers().reshape(1, *layer.integers().shape[:2], -1)
    else:
        expected = layer.integers().transpose(AXES[name])
    np.testing.assert_array_equal(weights.data, expected)
    np.testing.assert_array_equal(weights.quantization.scale, layer.scales())
    assert weights.bits == 4
    assert np.abs(expected.astype(int)).max() <= 8


@pytest.mark.parametrize("name", WEIGHTED)
def test_biases_are_in_units_of_input_scale_times_weight_scale(residual, name):
    graph, layer = residual.freeze(), residual.get_layer(name)
    source, _, bias = (graph.tensors[tensor] for tensor in operator(graph, name).inputs)
    unit = np.float64(source.quantization.scale[0]) * layer.scales().astype(np.float64)
    np.testing.assert_array_equal(bias.data, np.round(np.asarray(layer.layer.bias) / unit))
    np.testing.assert_array_equal(bias.quantization.scale, unit.astype(np.float32))


def test_freezing_again_gives_the_same_and_changes_no_prediction(residual):
    images = small_models.images(8)
    before, first = residual.predict(images, verbose=0), residual.freeze()
    second = residual.freeze()
    assert first.operators == second.operators
    for name, tensor in first.tensors.items():
        again = second.tensors[name]
        np.testing.assert_array_equal(tensor.quantization.scale, again.quantization.scale)
        assert tensor.data is None or np.array_equal(tensor.data, again.data)
    np.testing.assert_array_equal(residual.predict(images, verbose=0), before)


def test_a_relu_joins_the_kernel_in_front_unless_others_read_what_it_reads():
    inputs = keras.Input((8,), name="x")
    joined = L.ReLU(name="joined")(L.Dense(4, name="alone")(inputs))
    read = L.Dense(4, name="read")(inputs)
    apart = L.ReLU(name="apart")(read)
    model = keras.Model(inputs, [joined, apart, L.Dense(2, name="reader")(read)])
    samples = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    graph = quantized(model, samples).freeze()
    activations = {o.layer: o.attributes.get("activation") for o in graph.operators}
    assert activations["alone"] == "RELU"
    assert activations["read"] == "NONE"
    assert "joined" not in activations
    assert operator(graph, "apart").kind == "RELU"


def test_fewer_codes_than_a_kernel_writes_are_cut_by_a_maximum():
    inputs = keras.Input((8,), name="x")
    model = keras.Model(inputs, L.Dense(4, name="narrow")(inputs))
    samples = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    graph = quantized(model, samples, activation_bits={"narrow": 5}).freeze()
    assert [o.kind for o in graph.operators] == ["FULLY_CONNECTED", "MAXIMUM"]
    output = graph.tensors[graph.outputs[0][1]]
    assert output.bits == 5
    lowest = graph.tensors[graph.operators[1].inputs[1]]
    assert lowest.data.item() == 128 - 2**5


def test_shared_weights_are_written_once():
    inputs = [keras.Input((4,), name="left"), keras.Input((4,), name="right")]
    shared = L.Dense(3, name="shared")
    model = keras.Model(inputs, L.Subtract(name="gap")([shared(x) for x in inputs]))
    draw = np.random.default_rng(0).normal(size=(2, 32, 4)).astype("float32")
    graph = quantized(model, list(draw * np.array([1, 5]).reshape(2, 1, 1))).freeze()
    calls = [o for o in graph.operators if o.layer == "shared"]
    assert len(calls) == 2
    assert len({call.inputs[1] for call in calls}) == 1
    # Each call has biases in the units of its own input.
    assert len({call.inputs[2] for call in calls}) == 2


def test_widths_by_layer_are_those_of_the_written_tensors(residual):
    graph = residual.freeze()
    for name, (weights, activations) in residual.bit_widths.items():
        layer = residual.get_layer(name)
        assert (weights is not None) == isinstance(layer, QuantizedWeights)
        found = [o for o in graph.operators if o.layer == name]
        assert all(graph.tensors[o.outputs[0]].bits <= 8 for o in found)
        assert activations == 8


def test_a_tensor_without_a_quantizer_is_named():
    inputs = keras.Input((4,), name="x")
    layer = QuantizedWeights(L.Dense(2, name="bare"), 8)
    model = QuantizedModel(inputs, layer(inputs), target="android")
    with pytest.raises(ValueError, match="layer 'bare' has no activation quantizer behind it"):
        model.freeze()
