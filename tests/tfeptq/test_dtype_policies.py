"""Float models of any precision, under any policy of the user's: ours compute in float32."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export

IMAGES = np.random.default_rng(0).normal(size=(32, 6, 6, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 4, 32)
CONFIG = tfeptq.QuantizationConfig(
    weight_bits=4, rounding="nearest", threshold="max", bias_correction=False, samples=32
)


@pytest.fixture(autouse=True)
def _the_policy_before():
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)


def network(policy: str | None = None) -> keras.Model:
    """One layer of every kind that has a class of ours."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    settings = {} if policy is None else {"dtype": policy}
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv", **settings)(inputs)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu", **settings)(x)
    x = layers.AveragePooling2D(2, name="pool", **settings)(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise", **settings)(x)
    x = layers.Concatenate(name="joined", **settings)([x, layers.ReLU(name="relu", **settings)(y)])
    x = layers.GlobalAveragePooling2D(name="mean", **settings)(x)
    x = layers.Dense(4, activation="softmax", name="ends", **settings)(x)
    return keras.Model(inputs, x, name="network")


POLICIES = [
    *[(policy, None) for policy in ("mixed_float16", "mixed_bfloat16", "float64")],
    *[(None, policy) for policy in ("mixed_float16", "mixed_bfloat16", "float64", "float16")],
    ("mixed_float16", "float32"),
]


def made(model, folder, **options):
    """A quantized model, the bytes of its file, and what it answers."""
    quantized = tfeptq.quantize(model, IMAGES, CONFIG)
    tflite_export.export(quantized, folder / "m.tflite", target="android", **options)
    content = (folder / "m.tflite").read_bytes()
    return quantized, content, quantized.predict(IMAGES, verbose=0)


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    """Its file is verified, and gives what Keras does: those of other policies are this one."""
    folder = tmp_path_factory.mktemp("float32")
    found = made(network(), folder)
    np.testing.assert_allclose(tflite_export.run(folder / "m.tflite", IMAGES), found[-1], atol=0.02)
    return found


@pytest.mark.parametrize(("of_all", "of_model"), POLICIES)
def test_the_same_integers_under_every_policy(of_all, of_model, in_float32, tmp_path):
    if of_all is not None:
        keras.config.set_dtype_policy(of_all)
        keras.config.set_floatx("float64" if of_all == "float64" else "float32")
    model = network(of_model)
    # float16 has fewer digits: what it holds is what both are made of.
    weights = [np.asarray(array, np.float32) for array in model.get_weights()]
    expected = in_float32
    if of_model == "float16":
        keras.config.set_dtype_policy("float32")
        twin = network()
        twin.set_weights(weights)
        expected = made(twin, tmp_path, verify=False)
    else:
        model.set_weights(network("float32").get_weights())
    quantized, content, answers = made(model, tmp_path, verify=of_all is not None)
    for left, right in zip(quantized.get_weights(), expected[0].get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    if of_all is not None:
        assert keras.config.dtype_policy().name == of_all
    assert content == expected[1]
    assert answers.dtype == "float32"
    np.testing.assert_array_equal(answers, expected[2])
    quantized.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.asarray(loaded(IMAGES)), np.asarray(quantized(IMAGES)))


@pytest.mark.parametrize(
    ("of_all", "of_model"), [("mixed_float16", None), (None, "mixed_bfloat16")]
)
def test_training_ends_with_a_file_under_every_policy(of_all, of_model, tmp_path):
    if of_all is not None:
        keras.config.set_dtype_policy(of_all)
    model = network(of_model)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    callback = tfeptq.QuantizationCallback(
        IMAGES,
        dataclasses.replace(CONFIG, rounding="eptq", steps=4, batch_size=8),
        export_path=tmp_path / "m.tflite",
        validation_data=(IMAGES, LABELS),
    )
    history = model.fit(IMAGES, LABELS, verbose=0, callbacks=[callback]).history
    answers = tflite_export.run(tmp_path / "m.tflite", IMAGES)
    found = callback.quantized.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(answers, found, atol=0.02)
    assert history["quantized_accuracy"][0] == np.float32(np.mean(found.argmax(1) == LABELS))
    assert np.abs(found - model.predict(IMAGES, verbose=0)).max() < 0.2
    assert keras.config.dtype_policy().name == (of_all or "float32")


def test_layers_of_ours_ignore_the_policy():
    """Every layer of a quantized model, and the model itself; new ones are found by themselves."""
    keras.config.set_dtype_policy("mixed_float16")
    quantized = tfeptq.quantize(network(), IMAGES, CONFIG)
    assert quantized.dtype_policy.name == "float32"
    own = [layer for layer in quantized.layers if type(layer).__module__.startswith("tfeptq")]
    assert len({type(layer) for layer in own}) == 5
    for layer in own:
        assert layer.dtype_policy.name == "float32", layer.name
    # Inputs have a type of their own, whatever the policy says.
    assert {str(tensor.dtype) for tensor in quantized.inputs} == {"float32"}
    assert {str(weight.dtype) for weight in quantized.weights} == {"float32"}
