"""Whole jobs on a small network: quantize, save, reload elsewhere, export, run."""

from __future__ import annotations

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tests.tfeptq import small_models

H, W, C, K = small_models.H, small_models.W, small_models.C, small_models.K
NEAREST = {"rounding": "nearest", "samples": 32}


def quantized(model=None, data=None, **settings):
    config = tfeptq.QuantizationConfig(**{**NEAREST, **settings})
    model = model or small_models.residual_network()
    return tfeptq.quantize(model, small_models.images(32) if data is None else data, config)


@functools.cache
def at_width(bits, target="android"):
    """The network of most tests here, which only read it."""
    return quantized(weight_bits=bits, target=target)


WIDTHS = (8, 4, 3, 2)


def network_of_all_widths():
    """Around a residual block for each width, all else that `small_models` has."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="norm")(x))
    for bits in WIDTHS:
        y = L.DepthwiseConv2D(3, padding="same", activation="relu6", name=f"depthwise_{bits}")(x)
        y = L.Conv2D(8, 1, name=f"pointwise_{bits}")(y)
        x = L.ReLU()(L.Add()([x, y]))
    x = L.Concatenate()([L.MaxPooling2D(2)(x), L.Conv2D(4, 2, 2, name="skip")(x)])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(K, activation="softmax", name="classes")(x))


@pytest.mark.parametrize("target", ["android", "ethos-u", "microcontroller"])
def test_keras_and_file_agree(tmp_path, target):
    widths = {f"{kind}_{bits}": bits for kind in ("depthwise", "pointwise") for bits in WIDTHS}
    widths["skip"] = 3
    model = quantized(network_of_all_widths(), weight_bits=widths, target=target)
    path = tmp_path / "m.tflite"
    result = tflite_export.export(model, path, target=target)
    assert {name: model.bit_widths[name][0] for name in widths} == widths
    assert result.verification.runtimes[0].maximum == 0
    data = small_models.images(48, seed=5)
    runtime = "litert" if target == "android" else "litert-reference"
    found = tflite_export.run(path, data, runtime=runtime)
    expected = model.predict(data, verbose=0)
    # One step of the softmax output is 1/256; one step inside may move it by a few.
    assert np.abs(found - expected).mean() < 1.5 / 256


def test_a_model_knows_its_target(tmp_path):
    model = at_width(8, "microcontroller")
    assert tflite_export.export(model, tmp_path / "m.tflite").target == "microcontroller"
    model.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    assert loaded.target == "microcontroller"
    assert tflite_export.export(loaded, tmp_path / "again").target == "microcontroller"
    content = (tmp_path / "m.tflite").read_bytes()
    assert (tmp_path / "again").read_bytes() == content
    # The one that is asked for wins.
    assert tflite_export.export(loaded, tmp_path / "a", target="android").target == "android"


@pytest.mark.parametrize("target", ["android", "ethos-u", "microcontroller"])
def test_sixteen_bit_activations(tmp_path, target):
    model = quantized(weight_bits=8, activation_bits=16, target=target)
    result = tflite_export.export(model, tmp_path / "m.tflite", target=target)
    assert result.verification.runtimes[0].maximum == 0
    data = small_models.images(16, seed=5)
    found = tflite_export.run(tmp_path / "m.tflite", data)
    np.testing.assert_allclose(found, model.predict(data, verbose=0), atol=3 / 32768)


def test_first_and_last_layers_keep_eight_bits():
    widths = at_width(3).bit_widths
    assert widths["stem"] == (8, 8)
    assert widths["classes"] == (8, 8)
    assert widths["pointwise"] == (3, 8)
    assert widths["sum"] == (None, 8)


def test_widths_by_layer_name(tmp_path):
    model = quantized(weight_bits={"pointwise": 4, "depthwise": 2})
    assert model.bit_widths["pointwise"][0] == 4
    assert model.bit_widths["stem"][0] == 8
    result = tflite_export.export(model, tmp_path / "m.tflite", target="android")
    containers = {layer.name: layer.container for layer in result.layers}
    assert containers["pointwise"] == "int4"
    assert containers["stem"] == "int8"


def test_unknown_layer_names_are_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'pointwise'"):
        quantized(weight_bits={"pointwize": 4})


def test_widths_that_the_target_cannot_store_are_refused_by_layer():
    with pytest.raises(ValueError, match=r"layer 'depthwise', weight_bits=4.*Edge TPU"):
        quantized(weight_bits=4, target="coral")


def test_the_same_model_and_seed_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        tflite_export.export(quantized(weight_bits=4), tmp_path / name, target="android")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


RELOAD = """
import sys, numpy as np, tfeptq
model = tfeptq.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def test_a_saved_model_predicts_identically_in_another_process(tmp_path):
    model, data = at_width(3), small_models.images(16, seed=5)
    paths = [str(tmp_path / name) for name in ("m.keras", "x.npy", "y.npy")]
    model.save(paths[0])
    np.save(paths[1], data)
    subprocess.run([sys.executable, "-c", RELOAD, *paths], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(paths[2]), model.predict(data, verbose=0))


def test_tensors_and_signature_carry_the_layer_names(tmp_path):
    tflite_export.export(at_width(8), tmp_path / "m.tflite", target="android")
    inspection = tflite_export.inspect(tmp_path / "m.tflite")
    names = {tensor.name for tensor in inspection.tensors}
    assert {"image", "stem", "stem/weights", "stem/bias", "sum", "classes_softmax"} <= names
    assert not any(tensor.type.startswith("float") for tensor in inspection.tensors)
    found = tflite_export.run(tmp_path / "m.tflite", {"image": small_models.images(2)})
    assert found.shape == (2, K)


def model_of(build, *shapes):
    keras.utils.set_random_seed(0)
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, build(*inputs))


IMAGE = (H, W, C)
LAYER_MODELS = {
    "conv": lambda x: L.Conv2D(5, (3, 2), strides=2, padding="same")(x),
    "conv dilated relu": lambda x: L.Conv2D(5, 3, dilation_rate=2, activation="relu")(x),
    "conv relu6": lambda x: L.Conv2D(5, 3, activation="relu6")(x),
    "depthwise": lambda x: L.DepthwiseConv2D(3, depth_multiplier=2)(x),
    "separable": lambda x: L.SeparableConv2D(5, 3, activation="relu")(x),
    "dense": lambda x: L.Dense(5)(L.Flatten()(x)),
    "dense on an image": lambda x: L.Dense(5, activation="relu")(x),
    "relu with other bound": lambda x: L.ReLU(2.0)(L.Conv2D(5, 3)(x)),
    "relu on the input": lambda x: L.ReLU()(x),
    "transposed conv relu": lambda x: L.Conv2DTranspose(5, (3, 2), 2, "same", activation="relu")(x),
    "elu": lambda x: L.ELU()(L.Conv2D(5, 3)(x)),
    "leaky relu": lambda x: L.LeakyReLU(0.2)(L.Conv2D(5, 3)(x)),
    "prelu": lambda x: L.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(x),
    "hard swish": lambda x: L.Activation("hard_silu")(L.Conv2D(5, 3)(x)),
    "swish": lambda x: L.Activation("silu")(L.Conv2D(5, 3)(x)),
    "hard sigmoid": lambda x: L.Activation("hard_sigmoid")(x),
    "sigmoid and tanh": lambda x: L.Activation("tanh")(L.Activation("sigmoid")(x)),
    "softmax": lambda x: L.Softmax()(L.Dense(5)(L.Flatten()(x))),
    "multiply": lambda x: L.Multiply()([L.Conv2D(C, 1)(x), x]),
    "subtract": lambda x: L.ReLU()(L.Subtract()([L.Conv2D(C, 1)(x), x])),
    "maximum and minimum": lambda x: L.Maximum()([x, L.Minimum()([L.Conv2D(C, 1)(x), x])]),
    "average": lambda x: L.Average()([x, L.Conv2D(C, 1)(x), L.Conv2D(C, 3, padding="same")(x)]),
    "concatenate": lambda x: L.Concatenate()([x, L.Activation("sigmoid")(x), L.Conv2D(2, 1)(x)]),
    "pooling": lambda x: L.AveragePooling2D(2)(L.MaxPooling2D((2, 3), 1)(x)),
    "global pooling": lambda x: L.GlobalAveragePooling2D(keepdims=True)(x),
    "global max pooling": lambda x: L.GlobalMaxPooling2D()(x),
    "reshape and permute": lambda x: L.Permute((2, 1))(L.Reshape((W, -1))(x)),
    "pad and crop": lambda x: L.Cropping2D(((0, 1), (2, 0)))(L.ZeroPadding2D(((1, 2), (0, 1)))(x)),
    "up-sampling": lambda x: L.UpSampling2D((2, 3))(x),
    "up-sampling bilinear": lambda x: L.UpSampling2D(2, interpolation="bilinear")(x),
    "normalization alone": lambda x: L.BatchNormalization(moving_mean_initializer="random_normal")(
        x
    ),
    "arithmetic": lambda x: (x * 2 + 1) / 3,
    "shared": lambda x: (lambda layer: layer(layer(x)))(L.Conv2D(C, 3, padding="same")),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Kind of layer -> what the float model, the file and Keras say: a model of all, once."""
    kinds = list(LAYER_MODELS)
    model = model_of(lambda x: [LAYER_MODELS[kind](x) for kind in kinds], IMAGE)
    result_model = quantized(model, small_models.images(32), weight_bits=8)
    path = tmp_path_factory.mktemp("kinds") / "m.tflite"
    tflite_export.export(result_model, path, target="android")
    data = small_models.images(16, seed=3)
    said = (
        model.predict(data, verbose=0),
        tflite_export.run(path, data),
        result_model.predict(data, verbose=0),
    )
    return dict(zip(kinds, zip(*said, strict=True), strict=True))


@pytest.mark.parametrize("name", LAYER_MODELS)
def test_every_layer_kind_survives_the_whole_road(answers, name):
    expected, found, keras_found = answers[name]
    spread = np.abs(expected).max()
    assert found.shape == expected.shape
    # Eight bits and clipped outliers: a few percent of the range on random data.
    assert np.abs(found - expected).mean() < 0.02 * spread
    assert np.abs(found - keras_found).mean() < 0.004 * spread


@functools.cache
def decoder() -> keras.Model:
    """Transposed convolutions with batch normalization before and behind, one of them shared."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(IMAGE)
    x = L.ReLU()(L.BatchNormalization(name="norm")(L.Conv2D(6, 3, 2, "same", name="down")(inputs)))
    x = L.BatchNormalization()(L.Conv2DTranspose(5, (3, 2), 2, "same", name="up")(x))
    shared = L.Conv2DTranspose(5, (2, 3), padding="same", activation="relu6", name="again")
    model = keras.Model(inputs, L.Conv2DTranspose(2, 2, (1, 2), name="last")(shared(shared(x))))
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return model


DECODED = {
    "coral": {"target": "coral"},
    "android, OPTQ at 4 bits": {"weight_bits": 4, "rounding": "optq"},
    "microcontroller, trained": {"rounding": "eptq", "steps": 10, "target": "microcontroller"},
    "ethos-u, 16-bit activations": {"target": "ethos-u", "activation_bits": 16},
    "widths by traces": {
        "weight_bits": (2, 4, 8),
        "sensitivity": "hawq_v2",
        "first_last_bits": None,
        "target": "ethos-u",
        "budget": tfeptq.Budget(weight_bytes=400),
    },
}


@pytest.mark.parametrize("name", DECODED)
def test_transposed_convolutions_take_the_whole_road(tmp_path, name):
    settings = {"threshold": "hmse", **DECODED[name]}
    model, data = decoder(), small_models.images(32)
    made = quantized(model, data, batch_size=16, **settings)
    assert [layer.name for layer in made.weighted_layers] == ["down", "up", "again", "last"]
    result = tflite_export.export(made, tmp_path / "m.tflite")
    kinds = [operator.kind for operator in tflite_export.inspect(tmp_path / "m.tflite").operators]
    assert kinds == ["CONV_2D", *["TRANSPOSE_CONV"] * 4]
    assert result.verification.runtimes[0].maximum == 0
    found = tflite_export.run(tmp_path / "m.tflite", data, runtime="reference")
    expected, right = made.predict(data, verbose=0), model.predict(data, verbose=0)
    spread = np.abs(right).max()
    assert np.abs(found - expected).mean() < 0.004 * spread
    if settings.get("weight_bits", 8) == 8:
        assert np.abs(found - right).mean() < 0.03 * spread


def test_one_dimensional_models(tmp_path):
    model = model_of(
        lambda x: L.GlobalAveragePooling1D()(
            L.SeparableConv1D(5, 3, strides=2, activation="relu")(
                L.BatchNormalization()(L.Conv1D(4, 3, padding="causal")(x))
            )
        ),
        (17, C),
    )
    data = np.random.default_rng(0).normal(size=(32, 17, C)).astype("float32")
    tflite_export.export(quantized(model, data), tmp_path / "m.tflite", target="microcontroller")
    expected = model.predict(data, verbose=0)
    found = tflite_export.run(tmp_path / "m.tflite", data)
    assert np.abs(found - expected).mean() < 0.03 * np.abs(expected).max()


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    model = model_of(
        lambda a, b: [L.Dense(4, name="one")(a), L.Add(name="two")([a, L.Dense(6)(b)])], (6,), (5,)
    )
    generator = np.random.default_rng(0)
    data = [generator.normal(size=(32, size)).astype("float32") for size in (6, 5)]
    tflite_export.export(quantized(model, tuple(data)), tmp_path / "m.tflite", target="android")
    outputs = tflite_export.run(tmp_path / "m.tflite", data)
    assert [output.shape for output in outputs] == [(32, 4), (32, 6)]
    for output, expected in zip(outputs, model.predict(data, verbose=0), strict=True):
        assert np.abs(output - expected).mean() < 0.03 * np.abs(expected).max()
