"""Quantization inside `model.fit`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import small_models

import tfeptq
import tflite_export

CONFIG = tfeptq.QuantizationConfig(weight_bits=4, steps=5, samples=32, batch_size=8)


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
    weights = model.get_weights()
    accuracy = history["quantized_accuracy"][-1]
    found = callback.quantized.predict(data[0], verbose=0).argmax(1)
    assert accuracy == pytest.approx(np.mean(found == data[1]), abs=1e-6)
    assert "quantized_loss" in history
    assert callback.result.path == path
    assert tflite_export.inspect(path).size_bytes == callback.result.size_bytes
    # The float model goes on as if nothing had happened.
    twin = compiled()
    twin.fit(*data, epochs=2, verbose=0)
    for left, right in zip(weights, twin.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_monitoring_scores_every_so_many_epochs(data):
    callback = tfeptq.QuantizationCallback(data[0], CONFIG, validation_data=data, every_epochs=2)
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
