"""Saved models of all ages."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfeptq.loading import load_model


def test_keras_files_predict_the_same(tmp_path):
    model = keras.Sequential([keras.Input((7, 5, 3)), keras.layers.DepthwiseConv2D(3)])
    model.save(tmp_path / "m.keras")
    inputs = np.ones((2, 7, 5, 3), "float32")
    np.testing.assert_array_equal(load_model(tmp_path / "m.keras")(inputs), model(inputs))


@pytest.mark.parametrize("name", ["keras2_vww_96.h5", "keras2_ad01.h5"])
def test_keras_2_files_load(assets, name):
    model = load_model(assets / "mlperf_tiny" / name)
    outputs = model(np.zeros((1, *model.inputs[0].shape[1:]), "float32"))
    assert np.all(np.isfinite(outputs))


def test_missing_and_damaged_files_get_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_model(tmp_path / "absent.keras")
    with pytest.raises(ValueError, match="is a directory"):
        load_model(tmp_path)
    (tmp_path / "broken.keras").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"broken\.keras: Keras cannot load it"):
        load_model(tmp_path / "broken.keras")
