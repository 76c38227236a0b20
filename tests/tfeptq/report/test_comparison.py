"""`compare` names what is bad, and says what more bits would win."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
from tests.tfeptq import small_models
from tfeptq.cli.main import main

SETTINGS = {"rounding": "nearest", "samples": 32, "threshold": "mse"}


def plain(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((9, 7, 3), name="image")
    x = inputs
    for index in range(4):
        x = L.Conv2D(8, 3, padding="same", activation="relu", name=f"conv{index}")(x)
    # No mean over positions: it leaves little signal, and errors of 8 bits would be heard too.
    return keras.Model(inputs, L.Conv2D(4, 1, name="ends")(x), name="plain")


def quantized(model: keras.Model, **settings) -> tfeptq.QuantizedModel:
    config = tfeptq.QuantizationConfig(**{**SETTINGS, **settings})
    return tfeptq.quantize(model, small_models.images(32), config)


@pytest.mark.parametrize("bad", ["conv0", "conv1", "conv2", "conv3"])
def test_a_planted_layer_of_2_bits_is_named_first(bad):
    model = plain()
    copy = quantized(model, weight_bits={bad: 2}, activation_bits=16)
    found = tfeptq.compare(model, copy, small_models.images(32))
    assert found.breaks_at == bad
    first = found.restorations[0]
    assert (first.layer, first.way) in {(bad, "float"), (bad, "8-bit weights")}
    assert first.won > 3.0
    # The next layer that is not the bad one wins next to nothing.
    others = [each.won for each in found.restorations if each.layer != bad]
    assert max(others) < first.won / 3
    assert min(found.layers, key=lambda layer: layer.alone).layer == bad


def test_a_planted_output_of_4_bits_is_named_first():
    model = plain()
    copy = quantized(model, activation_bits={"conv2": 4})
    found = tfeptq.compare(model, copy, small_models.images(32))
    assert found.restorations[0].layer == "conv2"
    by_way = {each.way: each.won for each in found.restorations if each.layer == "conv2"}
    assert set(by_way) == {"float", "8-bit output", "16-bit output"}
    assert min(by_way.values()) > 3.0


def test_errors_gather_and_alone_they_are_small():
    model = small_models.residual_network()
    found = tfeptq.compare(model, quantized(model, weight_bits=4), small_models.images(32))
    names = [layer.layer for layer in found.layers]
    assert names[0] == "stem"
    assert names[-2:] == ["classes", "classes_softmax"]
    for layer in found.layers:
        assert layer.lost >= 0.0
        assert -1.0 <= layer.cosine <= 1.0
        assert layer.alone >= layer.sqnr - 3.0
    # The outputs' noise is that of the last layer.
    assert found.sqnr == pytest.approx(found.layers[-1].sqnr, abs=0.1)
    # Of a layer at 8 bits nobody tries 8 bits.
    assert not [e for e in found.restorations if (e.layer, e.way) == ("stem", "8-bit weights")]
    won = [each.won for each in found.restorations]
    assert won == sorted(won, reverse=True)


def test_restoring_everything_float_is_the_float_model():
    """One layer alone: its float weights and output leave the quantized input."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(5, name="only")(inputs))
    samples = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    settings = {**SETTINGS, "samples": 64}
    config = tfeptq.QuantizationConfig(**settings, weight_bits={"only": 2}, activation_bits=16)
    found = tfeptq.compare(model, tfeptq.quantize(model, samples, config), samples)
    by_way = {each.way: each.sqnr for each in found.restorations}
    assert by_way["float"] == 60.0
    assert by_way["8-bit weights"] == pytest.approx(40, abs=8)
    assert found.sqnr < 15


def test_shared_layers_several_outputs_and_saved_copies(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 3))
    shared = L.Conv2D(3, 3, padding="same", name="shared")
    x = shared(L.ReLU(name="relu")(shared(inputs)))
    outputs = [L.GlobalAveragePooling2D(name="left")(x), L.Conv2D(2, 1, name="right")(x)]
    model = keras.Model(inputs, outputs)
    copy = quantized(model, weight_bits={"shared": 2})
    copy.save(tmp_path / "q.keras")
    images = small_models.images(16)
    found = [
        tfeptq.compare(model, each, images)
        for each in (copy, tfeptq.load_model(tmp_path / "q.keras"))
    ]
    assert found[0] == found[1]
    assert [layer.layer for layer in found[0].layers].count("shared") == 2
    assert found[0].breaks_at == "shared"
    assert {e.layer for e in found[0].restorations if e.won > 1.0} == {"shared"}


@pytest.mark.parametrize("outputs", [("conv2", "conv1"), "parts"])
def test_saved_copies_know_where_they_end(tmp_path, capsys, outputs):
    model = plain()
    joined = L.Concatenate(name="joined")([model.get_layer(f"conv{i}").output for i in (2, 3)])
    model = keras.Model(model.inputs, L.Dropout(0.1)(joined) if outputs != "parts" else joined)
    copy = quantized(model, outputs=outputs)
    images = small_models.images(8)
    model.save(tmp_path / "m.keras")
    copy.save(tmp_path / "q.keras")
    np.savez(tmp_path / "x.npz", x=images)
    names = [str(tmp_path / name) for name in ("m.keras", "q.keras", "x.npz")]
    assert main(["compare", *names[:2], "--data", names[2], "--restored", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = tfeptq.compare(model, copy, images, restored=0, verbose=0)
    assert found["sqnr"] == pytest.approx(expected.sqnr)
    assert [each["layer"] for each in found["layers"]] == [each.layer for each in expected.layers]


def test_no_ablation_where_none_is_asked_for():
    model = plain()
    found = tfeptq.compare(model, quantized(model), small_models.images(8), restored=0, samples=4)
    assert found.restorations == ()
    assert found.samples == 4
    assert found.breaks_at is None


def test_a_subclassed_model_keeps_the_names_of_its_inputs():
    class Summed(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = L.Dense(2, name="head")

        def call(self, inputs):
            return self.head(inputs["left"] + inputs["right"])

    generator, model = np.random.default_rng(0), Summed()
    given = {name: generator.normal(size=(33, 3)).astype("float32") for name in ("left", "right")}
    model(given)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=33)
    quantized = tfeptq.quantize(model, given, config, verbose=0)
    found = tfeptq.compare(model, quantized, given, restored=0, verbose=0)
    assert "head" in [layer.layer for layer in found.layers]


def test_other_models_are_refused_by_name():
    model, images = plain(), small_models.images(8)
    copy = quantized(model)
    with pytest.raises(ValueError, match="no quantized model: pass what"):
        tfeptq.compare(model, model, images)
    with pytest.raises(ValueError, match="is quantized already"):
        tfeptq.compare(copy, copy, images)
    with pytest.raises(ValueError, match="layer 'conv0' has other weights in the float model"):
        tfeptq.compare(plain(seed=1), copy, images)
    with pytest.raises(ValueError, match="not a model and its own quantized copy"):
        tfeptq.compare(small_models.residual_network(), copy, images)


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    model, images = plain(), small_models.images(16)
    model.save(tmp_path / "m.keras")
    quantized(model, weight_bits={"conv1": 2}).save(tmp_path / "q.keras")
    np.savez(tmp_path / "x.npz", x=images)
    files = [str(tmp_path / name) for name in ("m.keras", "q.keras")]
    command = ["compare", *files, "--data", str(tmp_path / "x.npz"), "--restored", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "It breaks first in layer 'conv1'." in printed
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["breaks_at"] == "conv1"
    assert found["restorations"][0]["layer"] == "conv1"
    assert main(["compare", *files, "--data", str(tmp_path / "y.npz")]) == 2
