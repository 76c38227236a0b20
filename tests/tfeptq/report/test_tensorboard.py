"""Curves and histograms for TensorBoard, where the user passes Keras's callback."""

from __future__ import annotations

from collections import defaultdict

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfeptq
from tests.tfeptq import small_models


def summaries(folder) -> dict[str, dict[int, np.ndarray]]:
    """Tag -> step -> value, of all event files in a folder."""
    found = defaultdict(dict)
    for path in sorted(folder.rglob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag][event.step] = tf.make_ndarray(value.tensor)
    return found


@pytest.fixture(scope="module", params=["eptq", "nearest"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = tfeptq.QuantizationConfig(
        weight_bits=3, rounding=request.param, steps=6, samples=32, batch_size=8
    )
    callback = keras.callbacks.TensorBoard(folder, write_graph=False)
    quantized = tfeptq.quantize(
        small_models.residual_network(), small_models.images(48), config, callbacks=[callback]
    )
    return request.param, quantized, folder


def test_curves_are_those_of_the_report(run):
    method, quantized, folder = run
    rows, found = quantized.report.training, summaries(folder / "quantization")
    assert len(rows) == (6 if method == "eptq" else 0)
    for name in ("error", "loss", "settled", "soft_share"):
        expected = {row.step: pytest.approx(getattr(row, name), rel=1e-6) for row in rows}
        assert {s: float(v) for s, v in found[f"training/{name}"].items()} == expected
    quality = quantized.report.quality
    curve = [float(value) for value in found["sqnr/by layer"].values()]
    assert curve == pytest.approx([min(value, 100.0) for value in quality.layers.values()])
    if method == "eptq":
        assert len(summaries(folder / "train")["epoch_error"]) == 6


def test_histograms_show_float_and_quantized(run):
    _, quantized, folder = run
    found = summaries(folder / "quantization")
    for layer in quantized.weighted_layers:
        before, after = (found[f"weights/{layer.name}"][step] for step in (0, 1))
        for histogram, values in ((before, layer.float_kernel), (after, layer.integer_kernel())):
            assert histogram[:, 2].sum() == values.size
            assert histogram[0, 0] == pytest.approx(values.min(), rel=1e-6)
            assert histogram[-1, 1] == pytest.approx(values.max(), rel=1e-6)
    for quantizer in quantized.activation_quantizers:
        assert set(found[f"activations/{quantizer.name}"]) == {0, 1}


def test_without_the_callback_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=32)
    others = [keras.callbacks.LambdaCallback()]
    tfeptq.quantize(
        small_models.residual_network(), small_models.images(32), config, callbacks=others
    )
    assert list(tmp_path.iterdir()) == []
