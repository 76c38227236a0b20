"""What is told of a training: the error of what would ship; telling it changes nothing."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import tfeptq
from tests.tfeptq.small_models import images, short_network
from tfeptq.rounding import distillation
from tfeptq.rounding.safeguard import OutputErrors
from tfeptq.rounding.training_record import SAMPLES, TrainingRecord, hardened, settled_share

CONFIG = tfeptq.QuantizationConfig(weight_bits=3, steps=8, samples=48, batch_size=8)


class Logs(keras.callbacks.Callback):
    """What callbacks of the user's see."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(logs))


@pytest.fixture(scope="module")
def trained():
    logs = Logs()
    model = short_network()
    return model, tfeptq.quantize(model, images(), CONFIG, callbacks=[logs], verbose=0), logs


def test_rows_say_what_the_schedule_did(trained):
    _, quantized, logs = trained
    rows = quantized.report.training
    assert [row.step for row in rows] == list(range(1, 9))
    assert [row["error"] for row in logs.seen] == [row.error for row in rows]
    assert rows[0].soft_share == rows[0].float_share == 1.0
    soft = [row.soft_share for row in rows]
    np.testing.assert_allclose(soft, np.maximum(1.0 - np.arange(8) / 7.2, 0.0), atol=1e-6)
    shares = [row.float_share for row in rows]
    np.testing.assert_allclose(shares, 1.0 - np.arange(8) / 8, atol=1e-6)
    assert all(row.loss == pytest.approx(row.distillation + row.rounding) for row in rows)
    assert all(0.0 < row.settled < 1.0 for row in rows)


def test_the_error_is_that_of_the_rounded_network(trained, monkeypatch):
    """The last row's is the error of what training ends with, once it is folded."""
    found = {}

    def told(quantized, teacher, samples, *rest, **options):
        plain(quantized, teacher, samples, *rest, **options)
        for layer in (*quantized.weighted_layers, *quantized.activation_quantizers):
            layer.fold()
        found["error"] = OutputErrors(teacher, samples, count=SAMPLES).of(quantized)
        found["rows"] = quantized.report.training

    plain = distillation.distil
    monkeypatch.setattr("tfeptq.recipe.distil", told)
    tfeptq.quantize(trained[0], images(), CONFIG, verbose=0)
    assert found["rows"][-1].error == pytest.approx(found["error"], rel=1e-3)


def test_telling_it_changes_no_byte(trained, monkeypatch):
    model, quantized, _ = trained
    monkeypatch.setattr(TrainingRecord, "on_epoch_end", lambda *_, **__: None)
    other = tfeptq.quantize(model, images(), CONFIG, verbose=0)
    assert other.report.training == []
    for left, right in zip(quantized.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_shares_come_back_even_from_an_error(trained):
    _, quantized, _ = trained
    layer, quantizer = quantized.weighted_layers[0], quantized.activation_quantizers[0]
    layer.soft_share.assign(0.3)
    quantizer.float_share.assign(0.7)
    found = []

    def fail():
        with hardened(quantized):
            found.append((float(layer.soft_share), float(quantizer.float_share)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found == [(0.0, 0.0)]
    assert float(layer.soft_share) == np.float32(0.3)
    assert float(quantizer.float_share) == np.float32(0.7)
    layer.soft_share.assign(0.0)
    quantizer.float_share.assign(0.0)


def test_everything_is_settled_where_all_is_folded(trained):
    assert settled_share(trained[1]) == 1.0


def test_rows_survive_being_kept(trained):
    _, quantized, _ = trained
    record = TrainingRecord(quantized, trained[0], [])
    record.rows = list(quantized.report.training)
    other = TrainingRecord(quantized, trained[0], [])
    other.restore(record.array())
    assert list(map(dataclasses.astuple, other.rows)) == list(map(dataclasses.astuple, record.rows))
