"""Models of Keras 2 in every form compute the same as Keras 3 models.

tf_keras computes what they should give. Most keep their layers and names; those with layers that
Keras 3 does not have are read from their TensorFlow graph where the form holds one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfeptq
from tests.tfeptq.foreign import tf_keras_zoo
from tfeptq.cli.main import main
from tfeptq.foreign import saved_model
from tfeptq.foreign.function_model import FunctionModel
from tfeptq.foreign.in_memory import converted
from tfeptq.preparation import as_functional, prepare
from tfeptq.preparation.received import is_keras2_model

#: What no configuration can bring back: Python code, and layers that Keras 3 does not have.
WITHOUT_LAYERS = ("anonymous", "removed_layers", "subclassed")
NAMES = [name for name in tf_keras_zoo.MODELS if name not in WITHOUT_LAYERS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("keras2")


@pytest.fixture(scope="module")
def models(folder):
    """Makes and saves each model when a test first asks for it."""
    made = {}

    def model(name):
        if name not in made:
            made[name] = tf_keras_zoo.write(name, folder, tf_keras, tf, np)
        return made[name]

    return model


def answers(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return (
            [file[key] for key in file.files if key.startswith("x")],
            [file[key] for key in file.files if key.startswith("y")],
        )


def outputs(model, inputs):
    given = inputs if len(inputs) > 1 else inputs[0]
    if isinstance(model, FunctionModel) and len(inputs) > 1:
        given = dict(zip(model.input_specs, inputs, strict=True))
    return [np.asarray(x) for x in keras.tree.flatten(model(given, training=False))]


def assert_equal(model, folder, name):
    """The same values, in any order: a signature orders its outputs by name."""
    inputs, wanted = answers(folder, name)
    found = outputs(model, inputs)
    assert len(found) == len(wanted)
    for value in wanted:
        scale = np.abs(value).max()
        tolerance = 5e-3 if name == "half_precision" else 1e-5
        assert any(
            other.shape == value.shape and np.abs(other - value).max() <= tolerance * scale
            for other in found
        )


@pytest.mark.parametrize("ending", [".h5", ".keras", ""], ids=["h5", "keras", "savedmodel"])
@pytest.mark.parametrize("name", NAMES)
def test_files_of_keras_2(models, folder, name, ending):
    model = models(name)
    loaded = tfeptq.load_model(folder / f"{name}{ending}")
    assert_equal(loaded, folder, name)
    assert not isinstance(loaded, FunctionModel)
    names = [layer.name for layer in model.layers if layer.weights]
    assert set(names) <= {layer.name for layer in loaded.layers}


@pytest.mark.parametrize("name", tf_keras_zoo.MODELS)
def test_models_in_memory(models, folder, name):
    model = models(name)
    assert is_keras2_model(model)
    found = converted(model)
    assert isinstance(found, FunctionModel) == (name in WITHOUT_LAYERS)
    assert_equal(found, folder, name)


def test_a_saved_model_whose_signature_cannot_be_compared_is_read_by_it(
    models, folder, monkeypatch
):
    """Its inputs have other names than the layers', say."""

    def agree(model, served):
        raise ValueError("missing inputs")

    monkeypatch.setattr(saved_model, "_agree", agree)
    models("residual")
    loaded = tfeptq.load_model(folder / "residual")
    assert isinstance(loaded, FunctionModel)
    assert_equal(loaded, folder, "residual")


@pytest.mark.parametrize("name", WITHOUT_LAYERS)
def test_saved_models_without_layers_are_read_by_their_signature(models, folder, name):
    models(name)
    loaded = tfeptq.load_model(folder / name)
    assert isinstance(loaded, FunctionModel)
    assert_equal(loaded, folder, name)


@pytest.mark.parametrize("name", [*NAMES, "anonymous", "subclassed"])
def test_they_can_be_prepared(models, folder, name):
    models(name)
    ending = "" if name in WITHOUT_LAYERS else ".h5"
    functional = as_functional(tfeptq.load_model(folder / f"{name}{ending}"))
    assert_equal(functional, folder, name)
    canonical = prepare(functional)
    inputs, _ = answers(folder, name)
    order = [tensor.name for tensor in canonical.inputs]
    assert [tensor.name for tensor in functional.inputs] == order
    tolerance = 5e-3 if name == "half_precision" else 1e-5
    for left, right in zip(outputs(functional, inputs), outputs(canonical, inputs), strict=True):
        assert np.abs(left - right).max() <= tolerance * np.abs(left).max()


def test_keras_3_keeps_its_own_hard_sigmoid(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Activation("hard_sigmoid")(inputs))
    model.save(tmp_path / "m.h5")
    values = np.linspace(-4, 4, 12, dtype="float32").reshape(3, 4)
    np.testing.assert_array_equal(tfeptq.load_model(tmp_path / "m.h5")(values), model(values))


def test_what_a_file_cannot_hold_is_named(models, folder, tmp_path):
    models("anonymous")
    with pytest.raises(ValueError, match=r"anonymous\.h5: Keras cannot load it: .*[Ll]ambda"):
        tfeptq.load_model(folder / "anonymous.h5")
    models("removed_layers")
    with pytest.raises(ValueError, match="LocallyConnected1D"):
        tfeptq.load_model(folder / "removed_layers.h5")
    weights = tmp_path / "weights.h5"
    models("residual").save_weights(weights)
    with pytest.raises(ValueError, match="holds weights only; build the model"):
        tfeptq.load_model(weights)


@pytest.mark.parametrize("ending", ["tflite", "onnx", "pt", "pb", "json"])
def test_other_files_get_the_way_to_a_model(tmp_path, ending, capsys):
    path = tmp_path / f"m.{ending}"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pass"):
        tfeptq.load_model(path)
    arguments = ["quantize", str(path), "--calibration", "x.npz", "--output", "m.tflite"]
    assert main(arguments) == 2
    assert "pass" in capsys.readouterr().err


def test_an_older_saved_model_without_the_metadata_file_is_read_by_its_signature(
    models, folder, tmp_path
):
    models("residual")
    shutil.copytree(folder / "residual", tmp_path / "residual")
    (tmp_path / "residual" / "keras_metadata.pb").unlink()
    loaded = tfeptq.load_model(tmp_path / "residual")
    assert isinstance(loaded, FunctionModel)
    assert_equal(loaded, folder, "residual")
    names = [layer.name for layer in prepare(as_functional(loaded)).layers]
    assert models("residual").layers[1].name in names


def test_a_saved_model_that_computes_otherwise_than_its_layers_is_read_by_its_signature(
    tmp_path,
):
    """What was exported under the layers' structure is what counts."""

    class Doubled(tf_keras.Sequential):
        pass

    model = Doubled([tf_keras.Input((3,)), tf_keras.layers.Dense(2, name="dense")])
    serve = tf.function(lambda x: 2 * model(x))
    signature = serve.get_concrete_function(tf.TensorSpec((None, 3), name="x"))
    tf_keras.models.save_model(model, tmp_path / "m", save_format="tf", signatures=signature)
    loaded = tfeptq.load_model(tmp_path / "m")
    values = np.eye(3, dtype="float32")
    np.testing.assert_allclose(loaded(values), 2 * model(values).numpy(), rtol=1e-5)


def test_tensorflow_s_own_saved_models(tmp_path):
    class Filter(tf.Module):
        def __init__(self):
            values = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
            self.kernel = tf.Variable(values.astype("float32"))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 6, 2))])
        def serve(self, image):
            return tf.nn.relu(tf.nn.conv2d(image, self.kernel, 1, "SAME", name="filter/conv"))

    module = Filter()
    tf.saved_model.save(module, tmp_path / "m")
    loaded = tfeptq.load_model(tmp_path / "m")
    images = np.random.default_rng(1).normal(size=(2, 8, 6, 2)).astype("float32")
    functional = as_functional(loaded)
    np.testing.assert_allclose(functional(images), module.serve(images), rtol=1e-5, atol=1e-6)
    assert "filter" in [layer.name for layer in functional.layers]


SETTINGS = {"rounding": "nearest", "samples": 8}


@pytest.mark.parametrize("ending", [".h5", ".keras", ""], ids=["h5", "keras", "savedmodel"])
def test_the_command_line_takes_them(models, folder, ending, tmp_path, capsys):
    models("residual")
    (inputs,), _ = answers(folder, "residual")
    np.savez(tmp_path / "x.npz", x=np.concatenate([inputs] * 2))
    arguments = [
        "quantize", str(folder / f"residual{ending}"), "--calibration", str(tmp_path / "x.npz"),
        "--rounding", "nearest", "--samples", "8", "--output", str(tmp_path / "m.tflite"), "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)
    assert (tmp_path / "m.tflite").stat().st_size > 1000


def test_quantize_takes_a_model_of_tf_keras(models, folder):
    config = tfeptq.QuantizationConfig(**SETTINGS)
    model = models("residual")
    (inputs,), (wanted,) = answers(folder, "residual")
    samples = np.concatenate([inputs] * 2)
    quantized = tfeptq.quantize(model, samples, config)
    error = np.abs(quantized.predict(inputs, verbose=0) - wanted).max()
    assert error <= 0.05 * np.abs(wanted).max()
    assert model.layers[1].name in quantized.bit_widths
