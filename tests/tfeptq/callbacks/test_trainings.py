"""The callback in every kind of training: best epochs, forms of data, tuners, strategies."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfeptq
import tflite_export
from tfeptq.callbacks.best_epoch import BestEpoch

NEAREST = tfeptq.QuantizationConfig(rounding="nearest", samples=32)
LEARNED = tfeptq.QuantizationConfig(weight_bits=4, steps=6, samples=32, batch_size=8)


def classifier(width: int | None = None) -> keras.Model:
    """With a hidden layer of a width, or none: to a callback models are all the same."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,), name="features")
    if width is not None:
        x = keras.layers.Dense(width, "relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="ends")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(48, 6)).astype("float32")
    return features, generator.integers(0, 3, 48)


class Scripted(keras.callbacks.Callback):
    """A training whose weights are bad but after one epoch: the labels are nearly known there."""

    def __init__(self, best: int) -> None:
        super().__init__()
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        bias = self.model.get_layer("ends").bias
        bias.assign([0.0, 0.0, 0.0] if epoch + 1 == self.best else [0.0, 50.0, 0.0])


# What was best is remembered without a look at the recipe, and put back before it.
@pytest.mark.parametrize(
    ("best", "config"),
    [(1, NEAREST), (2, LEARNED), (3, NEAREST)],
    ids=["first nearest", "middle eptq", "last nearest"],
)
def test_the_file_is_of_the_best_epoch(best, config, data, tmp_path):
    features, _ = data
    model = classifier()
    labels = model.predict(features, verbose=0).argmax(1)
    assert len(np.unique(labels)) > 1
    model.optimizer.learning_rate = 1e-9
    path = tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(
        features,
        config,
        export_path=path,
        validation_data=(features, labels),
        save_best="quantized_accuracy",
    )
    history = model.fit(
        features, labels, epochs=3, verbose=0, callbacks=[Scripted(best), callback]
    ).history
    scores = history["quantized_accuracy"]
    assert len(scores) == 3
    assert int(np.argmax(scores)) + 1 == best
    (final,) = history["final_quantized_accuracy"]
    assert final >= scores[best - 1] > 0.85
    answers = tflite_export.run(path, features).argmax(1)
    assert np.mean(answers == labels) == pytest.approx(final, abs=1e-6)
    # The float model is as training left it.
    assert np.abs(model.get_layer("ends").bias.numpy()).max() == (0.0 if best == 3 else 50.0)


def test_the_whole_recipe_is_not_taken_where_it_scores_worse(data, tmp_path, monkeypatch):
    features, _ = data
    model = classifier()
    labels = model.predict(features, verbose=0).argmax(1)
    callback = tfeptq.QuantizationCallback(
        features,
        LEARNED,
        export_path=tmp_path / "m.tflite",
        validation_data=(features, labels),
        save_best="quantized_loss",
    )
    calibrated = callback._quantize

    def spoil(*, rounding):
        quantized = calibrated(rounding="nearest")
        if rounding == "eptq":
            quantized.get_layer("ends").shift_bias(np.array([9.0, 0.0, 0.0], "float32"))
        return quantized

    monkeypatch.setattr(callback, "_quantize", spoil)
    history = model.fit(features, labels, epochs=2, verbose=0, callbacks=[callback]).history
    assert history["final_quantized_loss"] == [pytest.approx(min(history["quantized_loss"]))]
    assert "calibration alone" in callback.quantized.report.warnings[-1]


def test_a_recipe_that_fails_at_the_end_leaves_the_best_epochs_file(data, tmp_path, monkeypatch):
    features, labels = data
    model, path = classifier(), tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(
        features,
        LEARNED,
        export_path=path,
        validation_data=data,
        save_best="quantized_loss",
    )
    calibrated = callback._quantize

    def failing(*, rounding):
        if rounding == "eptq":
            raise RuntimeError("no memory")
        return calibrated(rounding="nearest")

    monkeypatch.setattr(callback, "_quantize", failing)
    with pytest.warns(UserWarning, match="by calibration alone is taken: no memory"):
        model.fit(features, labels, epochs=1, verbose=0, callbacks=[callback])
    assert callback.result.path == path
    assert callback.quantized is not None


@pytest.mark.parametrize(
    ("name", "mode", "scores", "best"),
    [
        ("quantized_accuracy", "auto", [0.1, 0.5, 0.4, 0.5], 2),
        ("quantized_loss", "auto", [3.0, 1.0, 1.0, 2.0], 2),
        ("quantized_mean_absolute_error", "auto", [3.0, np.nan, 1.0], 3),
        ("quantized_strange", "max", [-3.0, -1.0], 2),
        ("quantized_strange", "min", [-3.0, -1.0], 1),
    ],
)
def test_what_is_best_goes_by_name_or_mode(name, mode, scores, best):
    model, found = classifier(), BestEpoch(name, mode)
    for epoch, score in enumerate(scores):
        found.offer(epoch + 1, {name: score}, model, None)
    assert found.epoch == best


def test_names_that_do_not_tell_and_unknown_ones_are_refused(data):
    features, labels = data
    with pytest.raises(ValueError, match="does not tell whether more is better; give mode='max'"):
        tfeptq.QuantizationCallback(features, save_best="quantized_x", validation_data=data)
    with pytest.raises(ValueError, match="save_best needs validation_data"):
        tfeptq.QuantizationCallback(features, save_best="quantized_accuracy")
    callback = tfeptq.QuantizationCallback(
        features, NEAREST, save_best="quantised_accuracy", validation_data=data
    )
    with pytest.raises(ValueError, match="did you mean 'quantized_accuracy'"):
        classifier().fit(features, labels, verbose=0, callbacks=[callback])


def test_scores_of_epochs_and_of_the_end_do_not_mix(data):
    """One weight of 2 bits more: another recipe, other numbers, under names of their own."""
    features, labels = data
    model = classifier()
    config = tfeptq.QuantizationConfig(weight_bits=2, first_last_bits=2, steps=12, samples=32)
    callback = tfeptq.QuantizationCallback(features, config, validation_data=data, every_epochs=1)
    history = model.fit(features, labels, verbose=0, callbacks=[callback]).history
    assert len(history["quantized_loss"]) == 1
    assert history["final_quantized_loss"] != history["quantized_loss"]
    loss = keras.losses.sparse_categorical_crossentropy
    of_final = loss(labels, callback.quantized.predict(features, verbose=0))
    assert history["final_quantized_loss"] == [pytest.approx(float(np.mean(of_final)), rel=1e-4)]
    assert callback.quantized.name == model.name


class Batches(keras.utils.PyDataset):
    def __init__(self, features, labels, weights=None):
        super().__init__()
        self._arrays = [each for each in (features, labels, weights) if each is not None]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(each[12 * index : 12 * (index + 1)] for each in self._arrays)


FORMS = {
    "arrays": lambda x, y: ((x, y), {"x": x, "y": y}),
    "tf.data": lambda x, y: (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(12),
        {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(12).prefetch(1)},
    ),
    "PyDataset": lambda x, y: (Batches(x, y), {"x": Batches(x, y)}),
}


@pytest.fixture(scope="module")
def model():
    """One that is trained by one form of data after the other."""
    return classifier()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_scores(form, model, data):
    validation, given = FORMS[form](*data)
    calibration = data[0] if form == "arrays" else validation
    callback = tfeptq.QuantizationCallback(
        calibration, NEAREST, validation_data=validation, every_epochs=1
    )
    history = model.fit(**given, verbose=0, shuffle=False, callbacks=[callback]).history
    answers = callback.quantized.predict(data[0], verbose=0)
    (accuracy,) = history["final_quantized_accuracy"]
    assert accuracy == pytest.approx(np.mean(answers.argmax(1) == data[1]), abs=1e-6)
    assert history["quantized_accuracy"] == [pytest.approx(accuracy)]


def test_sample_weights_count_as_in_evaluate(data):
    features, labels = data
    weights = np.random.default_rng(1).uniform(0.0, 3.0, 48).astype("float32")
    arrays = (features, labels, weights)
    forms = [arrays, Batches(*arrays), tf.data.Dataset.from_tensor_slices(arrays).batch(12)]
    loss = keras.losses.SparseCategoricalCrossentropy()
    model = classifier()
    model.compile("sgd", loss, weighted_metrics=["accuracy"])
    callbacks = [
        tfeptq.QuantizationCallback(features, NEAREST, validation_data=form) for form in forms
    ]
    history = model.fit(features, labels, verbose=0, callbacks=callbacks).history
    copy_ = callbacks[-1].quantized
    copy_.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(), weighted_metrics=["accuracy"]
    )
    expected = copy_.evaluate(
        features, labels, sample_weight=weights, batch_size=48, verbose=0, return_dict=True
    )
    # float32 sums in batches of other sizes.
    accuracy, loss = (pytest.approx(expected[name], rel=1e-6) for name in ("accuracy", "loss"))
    assert history["final_quantized_accuracy"] == [accuracy] * 3
    assert history["final_quantized_loss"] == [loss] * 3


@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs_and_outputs(by_name):
    keras.utils.set_random_seed(0)
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    joined = keras.layers.Concatenate(name="joined")([left, right])
    outputs = {
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(joined),
        "size": keras.layers.Dense(1, name="size")(joined),
    }
    model = keras.Model([left, right], outputs)
    model.compile(
        "sgd",
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"kind": "accuracy", "size": "mae"},
    )
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(32, size)).astype("float32") for size in (4, 3)]
    inputs = dict(zip(("left", "right"), arrays, strict=True)) if by_name else arrays
    labels = {"kind": generator.integers(0, 3, 32), "size": generator.normal(size=(32, 1))}
    callback = tfeptq.QuantizationCallback(
        inputs if by_name else tuple(arrays),
        NEAREST,
        validation_data=(inputs, labels),
        save_best="quantized_kind_accuracy",
    )
    history = model.fit(inputs, labels, verbose=0, callbacks=[callback]).history
    answers = callback.quantized.predict(inputs, verbose=0)
    expected = np.mean(answers["kind"].argmax(1) == labels["kind"])
    assert history["final_quantized_kind_accuracy"] == [pytest.approx(expected, abs=1e-6)]
    error = np.abs(answers["size"] - labels["size"]).mean()
    assert history["final_quantized_size_mae"] == [pytest.approx(error, rel=1e-4)]


def test_a_tuner_copies_the_callback_for_every_trial(data, tmp_path):
    """As KerasTuner does: a deep copy a trial, models of other widths, one file each."""
    features, labels = data
    read = []

    def batches():
        read.append(1)
        yield features

    original = tfeptq.QuantizationCallback(
        batches(), NEAREST, validation_data=data, save_best="quantized_accuracy"
    )
    widths, found = (2, 8), []
    for width in widths:
        callback = copy.deepcopy(original)
        model = classifier(width)
        model.fit(features, labels, verbose=0, callbacks=[callback])
        found.append(callback)
    assert original.quantized is None
    assert read == [1]
    hidden = [callback.quantized.get_layer("hidden").layer.units for callback in found]
    assert hidden == list(widths)
    assert len({id(callback._best) for callback in (original, *found)}) == 3


def test_one_callback_serves_models_of_other_inputs_one_after_another(data):
    features, labels = data
    callback = tfeptq.QuantizationCallback(features, NEAREST)
    for _ in range(2):
        model = classifier(8)
        model.fit(features, labels, verbose=0, callbacks=[callback])
        assert callback.quantized.input_shape == (None, 6)
    inputs = keras.Input((6,))
    other = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="ends")(inputs))
    other.compile("sgd", "sparse_categorical_crossentropy")
    other.fit(features, labels, verbose=0, callbacks=[callback])
    assert callback.quantized.get_layer("ends").layer.units == 3
