"""A second weight grid is one class and one registration: the whole road with the tests' own."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tests.tfeptq.codebook import Codebook
from tfeptq.calibrate.thresholds import fitted_rows, weighted_error
from tfeptq.config import WEIGHT_GRIDS
from tfeptq.quantized.wrappers import QuantizedWeights

NAME = "tests' codebook"


@pytest.fixture(autouse=True)
def _registered():
    WEIGHT_GRIDS.register(NAME, Codebook)
    yield
    WEIGHT_GRIDS.forget(NAME)


@functools.cache
def quantized(**settings) -> tfeptq.QuantizedModel:
    """All tests read the same one of the same settings."""
    settings = {"samples": 32, "weight_grid": NAME, "weight_bits": 3, "batch_size": 8, **settings}
    config = tfeptq.QuantizationConfig(**settings)
    return tfeptq.quantize(small_models.short_network(), small_models.images(32), config)


def assert_weights_are_entries(model: tfeptq.QuantizedModel, written=None) -> None:
    """Every weight of the Keras model, and of the file, is an entry of its channel's codebook."""
    for layer in model.weighted_layers:
        grid, integers = layer.weight_grid, layer.integers()
        assert isinstance(grid, Codebook)
        np.testing.assert_array_equal(grid.nearest(grid.values(integers)), integers)
        values = layer.quantized_kernel()
        np.testing.assert_allclose(values, integers * grid.step, rtol=1e-5, atol=1e-7)
        # Not integers that follow each other: at 3 bits a channel has at most seven values.
        rows = np.moveaxis(integers, -1, 0).reshape(integers.shape[-1], -1)
        if layer.bits == 3 and "depthwise" not in layer.name:
            assert max(len(np.unique(row)) for row in rows) <= 7
        if written is not None:
            stored = next(t for n, t in written.items() if n == f"{layer.name}/weights")
            assert stored.bits == 8
            assert sorted(np.unique(stored.data)) == sorted(np.unique(integers))


@pytest.mark.parametrize(
    "recipe",
    [
        {"rounding": "nearest", "threshold": "mse"},
        {"rounding": "nearest", "threshold": "max"},
        {"rounding": "optq"},
        {"rounding": "eptq", "steps": 6},
        {"rounding": "eptq", "steps": 6, "initial_rounding": "optq"},
        {"rounding": "nearest", "target": "microcontroller", "activation_bits": 16},
    ],
    ids=lambda recipe: " ".join(map(str, recipe.values())),
)
def test_the_road_ends_in_a_verified_file(recipe, tmp_path):
    model = quantized(**recipe)
    graph = model.freeze()
    assert_weights_are_entries(model, graph.tensors)
    result = tflite_export.export(model, tmp_path / "m.tflite")
    weights = [layer for layer in result.layers if layer.weight_bits]
    assert {layer.container for layer in weights} == {"int8"}
    images = small_models.images(8, seed=5)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        tflite_export.run(tmp_path / "m.tflite", images), expected, atol=1 / 128
    )


def test_thresholds_let_it_learn_its_entries(monkeypatch):
    generator = np.random.default_rng(0)
    weights, scores = generator.normal(size=(5, 60)), generator.uniform(0.1, 4.0, (5, 60))
    errors = []
    for adapted in (Codebook.adapted, lambda self, weights, importance: self):
        monkeypatch.setattr(Codebook, "adapted", adapted)
        grid = fitted_rows(weights, scores, kind=Codebook, bits=3, method="hmse")
        errors.append(weighted_error(weights, scores, grid))
    assert np.all(errors[0] < errors[1])
    assert errors[0].sum() < 0.85 * errors[1].sum()


CHOSEN = {
    "rounding": "optq",
    "target": "ethos-u",
    "first_last_bits": None,
    "weight_bits": (2, 3, 5),
}


@functools.cache
def half_way() -> tfeptq.Budget:
    """Between the cheapest and the dearest choice, which have no need of a sensitivity."""
    config = tfeptq.QuantizationConfig(samples=32, weight_grid=NAME, **CHOSEN)
    points = tfeptq.pareto_frontier(small_models.short_network(), small_models.images(32), config)
    costs = [point.costs["weight_bytes"] for point in points]
    return tfeptq.Budget(weight_bytes=(costs[0] + costs[-1]) // 2)


@pytest.mark.parametrize("sensitivity", ["label_free", "inter_layer"])
def test_widths_are_chosen_on_it(sensitivity):
    model = quantized(budget=half_way(), sensitivity=sensitivity, **CHOSEN)
    widths = {layer.bits for layer in model.weighted_layers}
    assert len(widths) > 1
    assert_weights_are_entries(model)
    losses = model.report.choice.sensitivity.losses
    for by_width in losses.values():
        assert by_width[2] > by_width[3] > by_width[5]


def test_saved_models_keep_it(tmp_path):
    model = quantized(rounding="nearest", threshold="mse")
    model.save(tmp_path / "m.keras")
    loaded = tfeptq.load_model(tmp_path / "m.keras")
    assert_weights_are_entries(loaded)
    images = small_models.images(4, seed=5)
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_a_target_without_a_container_refuses_it(monkeypatch):
    monkeypatch.setattr(Codebook, "code_bits", staticmethod(lambda bits: 12))
    message = r"layer 'stem', weight_bits=8.* no CONV_2D with 12-bit .* weights"
    with pytest.raises(ValueError, match=message):
        quantized()


def test_an_unknown_grid_is_refused_by_name():
    with pytest.raises(ValueError, match="weight_grid='codebok' is unknown; allowed are uniform"):
        tfeptq.QuantizationConfig(weight_grid="codebok")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="registered already"):
        WEIGHT_GRIDS.register("uniform", Codebook)


def test_old_layers_have_uniform_integers():
    layer = keras.layers.Dense(2)
    config = QuantizedWeights(layer, 4).get_config()
    del config["grid_name"]
    found = QuantizedWeights.from_config(config)
    assert found.grid_name == "uniform"
