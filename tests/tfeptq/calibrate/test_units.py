"""Dead tensors, units of any size, features that one scale cannot hold."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq import pipeline
from tfeptq.calibrate import dead_tensors
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import prepare

H, W, C = 6, 5, 3
NEAREST = {"rounding": "nearest", "samples": 32, "bias_correction": False}
IMAGES = np.random.default_rng(0).normal(size=(32, H, W, C)).astype("float32")


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs, state = keras.Input((H, W, C), name="image"), keras.Input((H, W, 4), name="state")
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(inputs)
    x = L.Add(name="sum")([x, state])
    y = L.Conv2D(5, 1, activation="relu", name="dead")(x)
    y = L.Dense(2, name="behind")(L.GlobalAveragePooling2D()(y))
    x = L.Dense(3, name="alive")(L.GlobalAveragePooling2D()(x))
    model = keras.Model([inputs, state], [x, y])
    kernel, bias = model.get_layer("dead").get_weights()
    model.get_layer("dead").set_weights([kernel, bias - 50.0])
    return model


@pytest.mark.parametrize("target", ["android", "microcontroller"])
@pytest.mark.parametrize("bits", [4, 8])
def test_dead_tensors_take_their_scale_from_their_neighbours(tmp_path, target, bits):
    state = np.zeros((32, H, W, 4), "float32")
    config = tfeptq.QuantizationConfig(target=target, weight_bits=bits, **NEAREST)
    model = network()
    quantized = tfeptq.quantize(model, (IMAGES, state), config)
    for name in ("state", "dead"):
        assert any(
            f"layer '{name}" in line and "zero" in line for line in quantized.report.warnings
        )
    tflite_export.export(quantized, tmp_path / "m.tflite")
    graph = quantized.freeze()
    scales = {name: float(t.quantization.scale[0]) for name, t in graph.tensors.items()}
    # What the states of a running network are added to is of their size.
    assert 0.1 < scales["state"] / scales["sum"] < 10.0
    runtime = "tflm" if target == "microcontroller" else "litert"
    found = tflite_export.run(tmp_path / "m.tflite", [IMAGES, state], runtime=runtime)
    for output, expected in zip(found, model.predict([IMAGES, state], verbose=0), strict=True):
        assert np.abs(output - expected).max() <= 0.3 * np.abs(expected).max() + 1e-6


def test_every_call_of_a_network_of_zeros_is_asked_once(monkeypatch):
    """Through residual blocks lead more ways than could ever be followed."""
    x = inputs = keras.Input((4,))
    for _ in range(60):
        x = L.Add()([x, L.Dense(4, use_bias=False)(x)])
    model = prepare(keras.Model(inputs, x))
    graph, asked = LayerGraph.of(model), []
    made = dead_tensors.Neighbours._made
    monkeypatch.setattr(
        dead_tensors.Neighbours, "_made", lambda self, call: asked.append(call) or made(self, call)
    )
    neighbours = dead_tensors.Neighbours(graph, {})
    assert neighbours.range(graph.outputs) == (-1.0, 1.0)
    assert len(asked) == len(graph.calls)


def test_arrays_of_the_model_are_not_asked_about():
    """Channels of zeros that a residual is filled up with, and a variance's epsilon."""
    inputs = keras.Input((H, W, C))
    x = keras.ops.pad(L.MaxPooling2D(2)(inputs), ((0, 0), (0, 0), (0, 0), (0, 2)))
    x = L.ReLU()(L.Conv2D(C + 2, 3, strides=2, padding="valid")(inputs) + x[:, : (H - 1) // 2])
    x = x * np.linspace(1e-9, 1e-7, C + 2, dtype="float32") * 1e7 + keras.ops.sqrt(x + 1e-6)
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    for target in ("android", "microcontroller"):
        config = tfeptq.QuantizationConfig(target=target, **NEAREST)
        warnings = tfeptq.quantize(model, IMAGES, config).report.warnings
        assert not [line for line in warnings if "zero in all" in line or "units" in line]


def integers(factor: float) -> dict[str, np.ndarray]:
    """Of a network whose input has other units, which its first layer makes up for."""
    model = network()
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel / np.float32(factor), bias])
    state = np.abs(np.random.default_rng(1).normal(size=(32, H, W, 4))).astype("float32")
    config = tfeptq.QuantizationConfig(threshold="mse", **NEAREST)
    data = (IMAGES * np.float32(factor), state)
    graph = tfeptq.quantize(model, data, config).freeze()
    return {name: t.data for name, t in graph.tensors.items() if t.data is not None}


@pytest.mark.parametrize("exponent", [-30, -20, 20])
def test_units_of_the_input_change_no_integer(exponent):
    """Powers of two, so that float32 itself changes nothing."""
    usual, other = integers(1.0), integers(2.0**exponent)
    assert usual.keys() == other.keys()
    for name, expected in usual.items():
        np.testing.assert_array_equal(other[name], expected, err_msg=name)


def test_unusual_units_are_told_by_layer():
    inputs = keras.Input((4,), name="tiny")
    model = keras.Model(inputs, L.Dense(2, name="out")(inputs))
    data = np.random.default_rng(0).normal(size=(32, 4)).astype("float32") * 1e-8
    quantized = tfeptq.quantize(model, data, tfeptq.QuantizationConfig(**NEAREST))
    assert any("layer 'tiny'" in line and "units" in line for line in quantized.report.warnings)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)])
def test_features_that_have_no_codes_are_named_before_any_work(monkeypatch, shape):
    """Of vectors, sequences and pictures, as soon as the samples are there."""
    inputs = keras.Input(shape, name="sensors")
    norm = L.Normalization(mean=[0.1, 1e5, 0.0], variance=[1.0, 9.0, 1.0], name="norm")
    model = keras.Model(inputs, L.Dense(2)(norm(inputs)))
    data = sensors(*shape[:-1])
    config = tfeptq.QuantizationConfig(**{**NEAREST, "samples": 64})

    class WorkBeginsError(Exception):
        pass

    def prove(*_):
        raise WorkBeginsError

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "prove", prove)
        words = r"input 'sensors': .* features 0, 1 .*normalize.* as layer 'norm' does"
        with pytest.warns(UserWarning, match=words), pytest.raises(WorkBeginsError):
            tfeptq.quantize(model, data, config)
    with pytest.warns(UserWarning, match="input 'sensors'"):
        quantized = tfeptq.quantize(model, data, config)
    assert any("input 'sensors'" in line for line in quantized.report.warnings)


def sensors(*between: int) -> np.ndarray:
    """Three features in units of 0.02, 25 and 1000, the second far from zero."""
    noise = np.random.default_rng(0).normal(size=(64, *between, 3))
    return (noise * [0.02, 25.0, 1000.0] + [0.1, 101300.0, 0.0]).astype("float32")


@pytest.mark.parametrize(
    ("settings", "named", "advises_16_bits"),
    [
        ({}, "features 0, 1 ", False),
        ({"activation_bits": 16}, "features 0 ", False),
        ({"input_range": (0.0, 255.0)}, "features 0 ", True),
        (
            {"activation_bits": (8, 16), "budget": tfeptq.Budget(activation_bytes=400)},
            "features 0 ",
            False,
        ),
    ],
)
def test_the_widest_and_the_fixed_scale_count(monkeypatch, settings, named, advises_16_bits):
    inputs = keras.Input((3,), name="sensors")
    model = keras.Model(inputs, L.Dense(2, name="out")(inputs))
    monkeypatch.setattr(pipeline, "prove", lambda *_: 1 / 0)
    settings = {**NEAREST, "samples": 64, **settings}
    config = tfeptq.QuantizationConfig(**settings)
    with pytest.warns(UserWarning, match="one scale for all") as told:
        assert_stops(lambda: tfeptq.quantize(model, sensors(), config))
    (sentence,) = (str(w.message) for w in told if "one scale for all" in str(w.message))
    assert named in sentence
    assert ("activation_bits={'sensors': 16}" in sentence) == advises_16_bits


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_features_in_unequal_units_are_normalized_by_an_operator_of_their_own(tmp_path, target):
    """With 16 bits all have codes; folded into 8-bit weights, the largest had none (error .12)."""
    keras.utils.set_random_seed(0)
    unit = np.array([1.0, 10.0, 100.0, 1000.0])
    data = np.random.default_rng(0).normal(size=(200, 4)) * unit + 3 * unit[::-1]
    data = data.astype("float32")
    norm = L.Normalization(mean=3 * unit[::-1], variance=unit**2, name="norm")
    model = keras.Sequential([keras.Input((4,)), norm, L.Dense(9, activation="relu"), L.Dense(3)])
    # Where the mean is large, a rounded weight moves all of its values: biases are corrected.
    settings = {**NEAREST, "samples": 200, "bias_correction": True, "activation_bits": 16}
    config = tfeptq.QuantizationConfig(**settings, target=target)
    result = tflite_export.export(tfeptq.quantize(model, data, config), tmp_path / "m.tflite")
    assert "DEPTHWISE_CONV_2D" in [layer.kind for layer in result.layers]
    expected = model.predict(data, verbose=0)
    difference = tflite_export.run(result.path, data, runtime="reference") - expected
    assert np.sqrt(np.mean(difference**2)) < 0.03 * expected.std()


@pytest.mark.parametrize(("largest", "folds"), [(31.0, True), (33.0, False)])
def test_features_in_like_units_are_folded(largest, folds):
    norm = L.Normalization(mean=[0.0] * 3, variance=np.array([1.0, 5.0, largest]) ** 2)
    layers = [keras.Input((7, 3)), norm, L.Rescaling(2.0), L.Flatten(), L.Dense(2)]
    canonical = prepare(keras.Sequential(layers))
    kinds = [type(layer).__name__ for layer in canonical.layers]
    assert ("DepthwiseConv2D" in kinds) != folds


def assert_stops(work) -> None:
    with pytest.raises(ZeroDivisionError):
        work()


@pytest.mark.parametrize("shape", [(9, 7, 1), (9, 7, 3), (5,)])
def test_inputs_of_one_unit_are_silent(shape):
    """Features that are constant in all samples carry nothing that could be lost."""
    model = keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(2)])
    data = np.random.default_rng(0).uniform(0.0, 255.0, (64, *shape)).astype("float32")
    data[..., 1:2] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfeptq.quantize(model, data, tfeptq.QuantizationConfig(**NEAREST))


def test_numbers_of_rows_are_no_features():
    """A place that holds one of two words has lost nothing, nor is a rare word a broken sample."""
    model = keras.Sequential([keras.Input((6,), dtype="int32"), L.Embedding(900, 3), L.Flatten()])
    model.add(L.Dense(2))
    tokens = np.random.default_rng(0).integers(0, 9, (64, 6)).astype("int32")
    tokens[:, 1] = np.arange(64) % 2
    tokens[17, 3] = 899
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfeptq.quantize(model, tokens, tfeptq.QuantizationConfig(**NEAREST))


def test_sigmoids_far_from_zero_run_in_every_runtime(tmp_path):
    """TFLM's kernel needs input scales below four; beyond, the function is flat."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3, activation="sigmoid", name="gate")(inputs))
    data = np.random.default_rng(0).normal(size=(64, 6)).astype("float32") * 3000.0
    config = tfeptq.QuantizationConfig(target="microcontroller", **{**NEAREST, "samples": 64})
    quantized = tfeptq.quantize(model, data, config)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", data, runtime="tflm")
    assert np.abs(found - model.predict(data, verbose=0)).mean() < 0.02


@pytest.mark.parametrize(("curve", "flat"), [("sigmoid", 8.0), ("tanh", 4.0)])
def test_no_codes_are_spent_where_a_curve_is_flat(curve, flat):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = L.Dense(3, name="gate")(inputs)
    alone = keras.Model(inputs, L.Activation(curve, name="curve")(x))
    beside = keras.Model(inputs, [alone.output, x])
    data = np.random.default_rng(0).normal(size=(64, 6)).astype("float32") * 50.0
    config = tfeptq.QuantizationConfig(**{**NEAREST, "samples": 64})
    ranges = []
    for model in (alone, beside):
        graph = tfeptq.quantize(model, data, config).freeze()
        source = next(op for op in graph.operators if op.kind in ("LOGISTIC", "TANH")).inputs[0]
        ranges.append(255 * float(graph.tensors[source].quantization.scale[0]))
    assert ranges[0] == pytest.approx(2 * flat, rel=1e-3)
    assert ranges[1] > 100.0


def test_a_wide_tensor_that_others_read_is_copied_for_its_sigmoid(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = L.Dense(3, name="wide")(inputs)
    model = keras.Model(inputs, L.Multiply(name="swish")([x, L.Activation("sigmoid")(x)]))
    data = np.random.default_rng(0).normal(size=(64, 6)).astype("float32") * 3000.0
    config = tfeptq.QuantizationConfig(target="microcontroller", **{**NEAREST, "samples": 64})
    tflite_export.export(tfeptq.quantize(model, data, config), tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", data, runtime="tflm")
    expected = model.predict(data, verbose=0)
    assert np.abs(found - expected).mean() < 0.01 * np.abs(expected).max()
