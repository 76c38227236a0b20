"""Shared layers through every stage: each call as if its layer were not shared, with one kernel."""

from __future__ import annotations

import collections
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import shared_models
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import prepare
from tfeptq.quantized.correspondence import corresponding_tensors
from tfeptq.quantized.wrappers import QuantizedWeights
from tflite_export.runtimes import reference

PLAIN = {"rounding": "nearest", "threshold": "max", "bias_correction": False}


def quantized(model, data, **settings):
    config = tfeptq.QuantizationConfig(**{"samples": len(data[0]), **settings})
    return tfeptq.quantize(model, data if len(data) > 1 else data[0], config)


def outputs(model, data):
    """Without a trace, which takes longer than these models."""
    return [np.asarray(tensor) for tensor in keras.tree.flatten(model(list(data), training=False))]


def relative_error(found, expected):
    """Root mean square error of all outputs as a part of their deviations, the largest."""
    return max(
        float(np.sqrt(np.square(one - other).mean()) / other.std())
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", ["towers", "repeated"])
def test_each_call_has_the_integers_that_a_layer_of_its_own_would_have(name):
    models = shared_models.shared(name), shared_models.copied(name)
    data = shared_models.samples(models[0], 16)
    shared, copied = (quantized(model, data, target="ethos-u", **PLAIN) for model in models)
    for one, other in zip(outputs(shared, data), outputs(copied, data), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    biases = [
        sorted(
            graph.tensors[operator.inputs[2]].data.tolist()
            for operator in graph.operators
            if len(operator.inputs) == 3
        )
        for graph in (shared.freeze(), copied.freeze())
    ]
    assert biases[0] == biases[1]
    assert len({tuple(bias) for bias in biases[0]}) == len(biases[0])


def agreement(model, data):
    """Of every quantized tensor, the share of values whose integer is that of the reference."""
    graph, layers = model.freeze(), LayerGraph.of(model)
    codes = []
    for (name, _), array in zip(graph.inputs, data, strict=True):
        grid = graph.tensors[name].quantization
        codes.append(np.clip(np.round(array / grid.scale) + grid.zero_point, -128, 127))
    integers = reference.run(graph, [array.astype(np.int8) for array in codes])
    tensors = layers.execute([tf.constant(array) for array in data])
    shares = {}
    for name, key in zip((name for name, _ in graph.outputs), layers.outputs, strict=True):
        grid = graph.tensors[name].quantization
        found = np.round(np.asarray(tensors[key]) / grid.scale) + grid.zero_point
        shares[name] = float(np.mean(found == integers[name].reshape(found.shape)))
    return shares


# Targets whose kernels, as Keras imitates them, are those of the reference.
ROADS = [
    ("towers, other order", "android", "eptq"),
    ("pyramid", "ethos-u", "optq"),
    ("alternating", "android", "optq"),
    ("nested", "ethos-u", "nearest"),
]


@pytest.mark.parametrize(("name", "target", "rounding"), ROADS)
def test_the_whole_road(name, target, rounding, tmp_path):
    model = shared_models.shared(name)
    data, test = shared_models.samples(model, 48), shared_models.samples(model, 24, seed=5)
    settings = {"threshold": "mse", "steps": 20, "sample_layer_attention": name != "pyramid"}
    found = quantized(model, data, target=target, rounding=rounding, **settings)
    assert max(layer.calls for layer in found.weighted_layers) >= 2
    assert min(agreement(found, test).values()) >= 0.999
    expected, made = outputs(model, test), outputs(found, test)
    assert relative_error(made, expected) < 0.12
    found.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    for one, other in zip(outputs(loaded, test), made, strict=True):
        np.testing.assert_array_equal(one, other)
    result = tflite_export.export(loaded, tmp_path / "m.tflite", target=target)
    assert result.verification.runtimes[0].maximum == 0
    run = tflite_export.run(result.path, list(test), runtime="litert")
    assert relative_error(run if isinstance(run, list) else [run], expected) < 0.12


def at_two_scales(*makes, seed):
    """Each layer on a sample as it is, and 30 times as loud; behind it each has an output."""
    row, ends = keras.Input((7,)), []
    for index, make in enumerate(makes):
        keras.utils.set_random_seed(seed + index)
        layer = make()
        ends += [layer(L.Dense(6)(row)), layer(L.Dense(6)(row * 30.0))]
    return keras.Model(row, ends)


def slopes():
    return L.PReLU(alpha_initializer="random_uniform")


def errors_of_calls(model, data, **settings):
    """Of each layer, those of its quiet and of its loud call, (layers, 2)."""
    found = outputs(quantized(model, data, **settings), data)
    pairs = zip(found, outputs(model, data), strict=True)
    return np.array([relative_error([one], [other]) for one, other in pairs]).reshape(-1, 2)


def steps():
    """A layer in three steps of two numbers each."""
    return keras.Sequential([L.Reshape((3, 2)), L.TimeDistributed(L.Dense(5)), L.Flatten()])


def test_each_call_has_the_resolution_of_its_own_results():
    model = at_two_scales(slopes, steps, L.ReLU, seed=3)
    data = shared_models.samples(model, 48)
    assert errors_of_calls(model, data, rounding="nearest").max() < 0.03


def test_rounding_layer_by_layer_suits_the_quiet_call_as_the_loud_one():
    names = ["shared_0", "shared_1", "shared_2"]
    model = at_two_scales(*(lambda name=name: L.Dense(5, name=name) for name in names), seed=0)
    data = shared_models.samples(model, 48)
    settings = {"weight_bits": dict.fromkeys(names, 4), "first_last_bits": None}
    nearest = errors_of_calls(model, data, rounding="nearest", **settings)
    layerwise = errors_of_calls(model, data, rounding="optq", **settings)
    assert np.all(layerwise.max(axis=1) < 1.3 * nearest.max(axis=1))
    assert np.all(layerwise.max(axis=1) < 2.0 * layerwise.min(axis=1))


def test_files_that_do_not_number_calls_still_load(tmp_path, monkeypatch):
    """As versions before this one saved them: one bias, and calls that say nothing."""
    monkeypatch.setattr(
        "tfeptq.quantized.wrap.Counter", lambda *_: collections.defaultdict(lambda: 1)
    )
    model = shared_models.shared("towers")
    data = shared_models.samples(model, 16)
    old = quantized(model, data, **PLAIN)
    old.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new:
        content = {name: new.read(name) for name in new.namelist()}
    text = content["config.json"].decode()
    content["config.json"] = text.replace(', "calls": 1', "").encode()
    assert b'"call' not in content["config.json"]
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as file:
        for name, data_ in content.items():
            file.writestr(name, data_)
    loaded = tfeptq.load_model(tmp_path / "old.keras")
    np.testing.assert_array_equal(outputs(loaded, data)[0], outputs(old, data)[0])
    result = tflite_export.export(loaded, tmp_path / "m.tflite", target="android")
    assert result.verification.runtimes[0].maximum == 0


@pytest.mark.parametrize("name", ["towers", "towers, other order"])
def test_biases_take_the_mean_shift_of_all_calls(name):
    model = shared_models.shared(name)
    data = shared_models.samples(model, 32)
    found = quantized(model, data, **{**PLAIN, "weight_bits": 3, "first_last_bits": None})
    for layer in found.weighted_layers:
        layer.grid.assign(np.zeros(layer.grid.shape))
        if layer.calls > 1:
            layer.bias_residue.assign(np.zeros(layer.bias_residue.shape))
    canonical = prepare(model)
    correct_biases(found, canonical, data)
    graphs = LayerGraph.of(canonical), LayerGraph.of(found)
    tensors = [graph.execute([tf.constant(array) for array in data]) for graph in graphs]
    shifts = {}
    for key, other in corresponding_tensors(*graphs).items():
        if isinstance(found.get_layer(other[0]), QuantizedWeights):
            difference = np.asarray(tensors[1][other] - tensors[0][key])
            axes = tuple(range(1, difference.ndim - 1))
            shifts.setdefault(key[0], []).append(difference.mean(axis=axes))
    assert max(len(of_calls) for of_calls in shifts.values()) >= 2
    for of_calls in shifts.values():
        of_samples = np.mean(of_calls, axis=0)
        error = of_samples.std(axis=0, ddof=1) / np.sqrt(len(of_samples))
        assert np.all(np.abs(of_samples.mean(axis=0)) <= 3 * error + 1e-4)


@settings(max_examples=2)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=3, max_size=6))
def test_random_graphs_lose_no_more_than_equal_ones_without_sharing(steps):
    def build(is_shared):
        keras.utils.set_random_seed(0)
        inputs, made = keras.Input((9,), name="row"), []
        tensors, originals = [inputs], {}
        for which, source in steps:
            layer = originals.get(which) if is_shared else None
            layer = layer or L.Dense(9, activation="relu", name=f"d{len(made)}")
            tensors.append(layer(tensors[source % len(tensors)]))
            original = originals.setdefault(which, layer)
            layer.set_weights(original.get_weights())
            made.append(layer)
        ends = keras.Model(inputs, L.Concatenate()(tensors[1:]))
        generator = np.random.default_rng(0)
        for which in sorted(originals):
            kernel = generator.normal(size=(9, 9)) / 3
            for (index, _), layer in zip(steps, made, strict=True):
                if index == which:
                    layer.set_weights([kernel, np.linspace(-0.3, 0.4, 9)])
        return ends

    models = [build(is_shared) for is_shared in (True, False)]
    data = shared_models.samples(models[0], 64)
    for rounding in ("nearest", "optq"):
        errors = [
            relative_error(
                outputs(quantized(m, data, rounding=rounding, threshold="mse"), data),
                outputs(m, data),
            )
            for m in models
        ]
        assert errors[0] < 1.2 * errors[1] + 0.002
