"""int8, int16 and narrow activations in one model, from the configuration to the runtimes."""

from __future__ import annotations

import functools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tflite_export.file.reader import parse
from tflite_export.graph.codes import lowest_code
from tflite_export.runtimes import reference
from tflite_export.targets.tflite_runtime import obstacles
from tflite_export.verify import witness_tensors

#: Both borders, an addition and a concatenation of unequal inputs, a pooled 16-bit tensor.
MIXED = {"stem": 16, "pointwise": 8, "sum": 16, "joined": 16, "depthwise": 5, "mean": 16}
#: What has to be requantized for it, by (from, to).
BORDERS = {
    ("int8", "int16"): 3,  # the image for stem, pointwise for sum, skip for joined
    ("int16", "int8"): 3,  # stem for depthwise, sum for skip, mean for classes
}
TARGETS = ("android", "ethos-u", "microcontroller")
QUICK = {"rounding": "nearest", "threshold": "max", "bias_correction": False, "samples": 32}


def quantized(bits, model=None, **settings):
    config = tfeptq.QuantizationConfig(**{**QUICK, "activation_bits": bits, **settings})
    model = model or small_models.residual_network()
    return tfeptq.quantize(model, small_models.images(32), config)


@functools.cache
def quantized_mixed(target):
    return quantized(MIXED, weight_bits=4, target=target)


@pytest.fixture(scope="module", params=TARGETS)
def mixed(request, tmp_path_factory):
    """A mixed model after a round trip through a file, and its export."""
    folder = tmp_path_factory.mktemp(request.param)
    model = quantized_mixed(request.param)
    model.save(folder / "m.keras")
    loaded = tfeptq.load_model(folder / "m.keras")
    result = tflite_export.export(loaded, folder / "m.tflite", target=request.param)
    return model, loaded, result, request.param


def test_a_reloaded_model_predicts_and_exports_the_same(mixed):
    model, loaded, result, target = mixed
    data = small_models.images(8, seed=5)
    expected = model.predict(data, verbose=0)
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), expected)
    again = tflite_export.export(model, result.path.parent / "b", target=target, verify=False)
    assert again.path.read_bytes() == result.path.read_bytes()
    found = tflite_export.run(result.path, data, runtime="litert-reference")
    # One step of an 8-bit softmax is 1/256.
    assert np.abs(found - expected).mean() < 1.5 / 256


def test_borders_are_requantized_once_each(mixed):
    graph = mixed[1].freeze()
    types = {name: tensor.dtype for name, tensor in graph.tensors.items()}
    found = Counter(
        (types[operator.inputs[0]], types[operator.outputs[0]])
        for operator in graph.operators
        if operator.kind == "QUANTIZE"
    )
    assert found == BORDERS
    for operator in graph.operators:
        if operator.kind != "QUANTIZE":
            activations = [n for n in operator.inputs if not graph.tensors[n].is_constant]
            assert len({types[name] for name in (*activations, *operator.outputs)}) == 1


def test_widths_are_reported_by_layer(mixed):
    _, loaded, result, _ = mixed
    widths = loaded.bit_widths
    assert {name: widths[name][1] for name in MIXED} == MIXED
    assert widths["depthwise"] == (4, 5)
    assert widths["image"] == (None, 8)
    assert widths["pool"] == (None, 16)
    assert widths["skip"] == (4, 8)
    reported = {layer.name: layer.activation_bits for layer in result.layers}
    assert reported["depthwise"] == 5
    assert reported["stem"] == 16
    assert "no runtime of today" in result.notes[0]


def test_runtimes_compute_what_was_learned(mixed):
    _, _, result, target = mixed
    data = small_models.images(16, seed=5)
    expected = tflite_export.run(result.path, data, runtime="reference")
    found = tflite_export.run(result.path, data, runtime="litert-reference")
    np.testing.assert_array_equal(found, expected)
    for report in result.verification.runtimes:
        for difference in report.operators:
            # The two kernels that round differently by design, see tolerances.py.
            if report.runtime == "litert-reference" or (
                report.runtime == "tflm" and difference.kind not in ("FULLY_CONNECTED", "SOFTMAX")
            ):
                assert difference.maximum == 0, (report.runtime, difference)
    assert target == "android" or result.verification.runtimes[1].runtime == "tflm"


def test_reported_widths_configure_the_same_model():
    model = quantized_mixed("android")
    widths = {name: bits for name, (_, bits) in model.bit_widths.items()}
    again = quantized(widths, weight_bits=4, target="android")
    data = small_models.images(4, seed=5)
    np.testing.assert_array_equal(np.asarray(again(data)), np.asarray(model(data)))


def test_the_old_runtime_is_known_to_lack_requantizations_to_sixteen_bits(mixed):
    found = obstacles(parse(mixed[2].path.read_bytes()))
    wide = [sentence for sentence in found if sentence.startswith("QUANTIZE")]
    assert len(wide) == BORDERS["int8", "int16"]
    assert "it requantizes int8 to 8 bits only" in wide[0]


def test_narrow_weights_of_wide_depthwise_layers_are_stored_in_bytes(tmp_path):
    model = quantized({"depthwise": 16, "pointwise": 16}, weight_bits=4)
    result = tflite_export.export(model, tmp_path / "m", target="android")
    containers = {layer.name: layer.container for layer in result.layers}
    assert containers["depthwise"] == "int8"
    assert containers["pointwise"] == "int4"


@functools.cache
def quantized_to_four(target):
    return quantized(4, weight_bits=8 if target == "coral" else 4, target=target)


@pytest.mark.parametrize("target", [*TARGETS, "coral"])
def test_four_bit_activations_use_sixteen_codes(tmp_path, target):
    model = quantized_to_four(target)
    result = tflite_export.export(model, tmp_path / "m", target=target)
    assert result.verification.runtimes[0].maximum == 0
    # The pooled tensor, which others read, has another range than the concatenation.
    copies = [layer.name for layer in result.layers if layer.kind == "QUANTIZE"]
    assert copies == ["skip_quantizer"]
    graph = model.freeze()
    samples = [np.random.default_rng(0).integers(-128, 128, (64, 9, 7, 3)).astype(np.int8)]
    tensors = witness_tensors(graph, {}, "litert-reference", samples)
    for name, (_, bits) in model.bit_widths.items():
        if bits == 4 and name in tensors:
            assert set(np.unique(tensors[name])) <= set(range(lowest_code(4), 128))
    # The first ReLU fills its codes and costs no operator; what has negative values is clamped.
    assert len(np.unique(tensors["stem"])) == 16
    clamped = {layer.name for layer in result.layers if layer.kind == "MAXIMUM"}
    assert clamped == {"pointwise", "skip", "skip_quantizer", "mean"}


def test_keras_computes_the_integers_of_the_file():
    model = quantized_to_four("microcontroller")
    graph, data = model.freeze(), small_models.images(16, seed=5)
    image = graph.tensors["image"].quantization
    codes = np.clip(np.round(data / image.scale) + image.zero_point, -128, 127).astype(np.int8)
    expected = reference.run(graph, [codes])["mean"].astype(np.float32)
    made = graph.tensors["mean"]
    assert made.bits == 4
    layers = LayerGraph.of(model)
    found = layers.execute([tf.constant(data)])["mean_quantizer", 0]
    steps = np.asarray(found) / made.quantization.scale + made.quantization.zero_point
    np.testing.assert_allclose(steps, expected, atol=1e-3)


def test_errors_fall_with_every_bit():
    data, model = small_models.images(48, seed=5), small_models.residual_network()
    expected = np.asarray(model(data))
    errors = [
        np.abs(np.asarray(quantized(bits, model)(data)) - expected).mean() for bits in (4, 5, 7)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_sixteen_bits_carry_what_eight_cannot(tmp_path):
    """A small difference of large numbers, which 8 bits round away."""
    inputs = keras.Input((5, 3), name="x")
    large = L.Dense(4, name="large")(inputs)
    total = L.Add(name="sum")([L.Dense(4, name="tiny")(inputs), large])
    difference = L.Subtract(name="difference")([total, large])
    model = keras.Model(inputs, L.Dense(4, name="small")(difference))
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(0)
    for layer, scale in (("large", 50.0), ("tiny", 0.1), ("small", 1.0)):
        weights = generator.normal(0, scale, model.get_layer(layer).kernel.shape)
        model.get_layer(layer).kernel.assign(weights)
    data = generator.normal(size=(64, 5, 3)).astype("float32")
    expected = model.predict(data, verbose=0)
    wide = dict.fromkeys(("x", "large", "tiny", "sum", "difference"), 16)
    errors = {}
    for name, bits in (("int8", 8), ("mixed", wide)):
        config = tfeptq.QuantizationConfig(**QUICK, activation_bits=bits)
        quantized_model = tfeptq.quantize(model, data, config)
        tflite_export.export(quantized_model, tmp_path / name, target="android")
        found = tflite_export.run(tmp_path / name, data, runtime="litert-reference")
        errors[name] = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert errors["mixed"] < 0.2 < 0.8 < errors["int8"]


def test_the_scales_of_borders_are_learned():
    """While training lasts: where it ends further from float, its start is kept."""
    seen = {}

    class Factors(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            borders = [q for q in self.model.activation_quantizers if "_to_int" in q.name]
            seen.update({q.name: float(keras.ops.convert_to_numpy(q.log_scale)) for q in borders})

    settings = {"rounding": "eptq", "steps": 3, "batch_size": 8, "sample_layer_attention": False}
    config = tfeptq.QuantizationConfig(**{**QUICK, "activation_bits": MIXED, **settings})
    data = small_models.images(32)
    tfeptq.quantize(small_models.residual_network(), data, config, callbacks=[Factors()])
    assert len(seen) == 5
    assert all(factor != 0.0 for factor in seen.values())


@pytest.mark.parametrize("widths", [(5, 8), (8, 5), (5, None), (None, 5)])
def test_a_shared_layer_tells_the_widest_of_its_calls(tmp_path, widths):
    """In either order of the calls; the file's operators have each call's own."""
    dense, x = L.Dense(6, name="shared"), keras.Input((5,), name="x")
    ends, bits = [], {}
    for index, width in enumerate(widths):
        end = dense(L.Rescaling(1.0 + index)(x))
        if width is not None:
            end = L.ReLU(name=f"relu_{index}")(end)
            bits[f"relu_{index}"] = width
        ends.append(end)
    config = tfeptq.QuantizationConfig(**QUICK, activation_bits=bits)
    data = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
    found = tfeptq.quantize(keras.Model(x, ends), data, config)
    assert found.bit_widths["shared"] == (8, 8)
    assert {name: found.bit_widths[name][1] for name in bits} == bits
    result = tflite_export.export(found, tmp_path / "m.tflite", target="android")
    calls = [layer for layer in result.layers if layer.kind == "FULLY_CONNECTED"]
    assert [layer.activation_bits for layer in calls] == [width or 8 for width in widths]
