"""Quantization inside `model.fit`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import small_models
import tensorflow as tf

import tfeptq
import tflite_export

CONFIG = tfeptq.QuantizationConfig(weight_bits=4, steps=5, samples=32, batch_size=8)
NEAREST = tfeptq.QuantizationConfig(rounding="nearest", samples=32)


@pytest.fixture
def data():
    labels = np.random.default_rng(0).integers(0, small_models.K, 32)
    return small_models.images(32), labels


def compiled() -> keras.Model:
    model = small_models.residual_network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_end_of_training_writes_a_file_and_logs_the_models_own_metric(tmp_path, data):
    path = tmp_path / "m.tflite"
    callback = tfeptq.QuantizationCallback(data[0], CONFIG, export_path=path, validation_data=data)
    model = compiled()
    history = model.fit(*data, epochs=2, verbose=0, callbacks=[callback]).history
    weights, moments = model.get_weights(), [v.numpy() for v in model.optimizer.variables]
    accuracy = history["quantized_accuracy"][-1]
    found = callback.quantized.predict(data[0], verbose=0).argmax(1)
    assert accuracy == pytest.approx(np.mean(found == data[1]), abs=1e-6)
    assert "quantized_loss" in history
    assert callback.result.path == path
    assert tflite_export.inspect(path).size_bytes == callback.result.size_bytes
    # The float model goes on as if nothing had happened.
    twin = compiled()
    twin.fit(*data, epochs=2, verbose=0)
    expected = twin.get_weights() + [variable.numpy() for variable in twin.optimizer.variables]
    for left, right in zip(weights + moments, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def absolute(labels, outputs):
    return keras.ops.mean(keras.ops.abs(outputs - labels), axis=-1)


def test_custom_losses_and_metrics_of_several_outputs(data):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(data[0].shape[1:])
    outputs = [keras.layers.Conv2D(2, 3, name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss=[absolute, "mse"], metrics=[[absolute], ["mae"]])
    labels = [np.zeros((32, 7, 5, 2), "float32")] * 2
    callback = tfeptq.QuantizationCallback(
        data[0], NEAREST, validation_data=(data[0], labels), every_epochs=1
    )
    history = model.fit(data[0], labels, epochs=1, verbose=0, callbacks=[callback]).history
    left, right = callback.quantized.predict(data[0], verbose=0)
    assert history["quantized_left_absolute"] == [pytest.approx(np.abs(left).mean(), rel=1e-5)]
    expected = np.abs(left).mean() + np.square(right).mean()
    assert history["quantized_loss"] == [pytest.approx(expected, rel=1e-5)]


def test_validation_in_batches_scores_as_validation_in_one_piece(data):
    batches = tf.data.Dataset.from_tensor_slices(data).batch(12)
    found = []
    for validation in (data, batches):
        callback = tfeptq.QuantizationCallback(data[0], NEAREST, validation_data=validation)
        history = compiled().fit(*data, verbose=0, callbacks=[callback]).history
        found.append((history["quantized_accuracy"][0], history["quantized_loss"][0]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_calibration_from_a_generator_serves_every_epoch(data):
    callback = tfeptq.QuantizationCallback(
        iter([data[0]]), NEAREST, validation_data=data, every_epochs=2
    )
    history = compiled().fit(*data, epochs=5, verbose=0, callbacks=[callback]).history
    # After epochs 2 and 4, and at the end.
    assert len(history["quantized_accuracy"]) == 3


def test_monitoring_scores_every_so_many_epochs(data):
    callback = tfeptq.QuantizationCallback(data[0], NEAREST, validation_data=data, every_epochs=2)
    logs = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, log: logs.append(dict(log)))
    compiled().fit(*data, epochs=4, verbose=0, callbacks=[callback, watch])
    assert ["quantized_accuracy" in log for log in logs] == [False, True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"every_epochs": 0}, "at least 1"), ({"every_epochs": 1}, "needs validation_data")],
)
def test_bad_settings_are_refused_before_training(data, settings, message):
    with pytest.raises(ValueError, match=message):
        tfeptq.QuantizationCallback(data[0], CONFIG, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": tfeptq.QuantizationConfig(weight_bits={"stemm": 4})}, "did you mean 'stem'"),
        ({"export_path": "absent/m.tflite"}, "folder .* does not exist"),
        ({"calibration": np.full((4, 9, 7, 3), np.nan)}, "holds NaN"),
    ],
)
def test_what_cannot_end_well_does_not_begin(data, settings, message):
    callback = tfeptq.QuantizationCallback(**{"calibration": data[0], **settings})
    model = compiled()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*data, verbose=0, callbacks=[callback])
    for left, right in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_stream_without_a_length_is_read_once_and_the_report_says_so(data):
    def batches():
        generator = np.random.default_rng(0)
        while True:
            yield generator.permutation(data[0])[:5]

    callback = tfeptq.QuantizationCallback(batches(), NEAREST)
    compiled().fit(*data, epochs=1, verbose=0, callbacks=[callback])
    report = callback.quantized.report
    assert report.samples["ranges"] == 32
    assert "32 samples were chosen among the first 515" in report.warnings[0]
