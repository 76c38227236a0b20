"""Models that tensorflow-model-optimization pruned or clustered keep their structure.

It makes Keras 2 models, and importing it changes what `tf.keras` is: it runs in a process and an
environment of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tfeptq.foreign.stripping import TFMOT_PYTHON

_MAKE = """
import os, sys
os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3")
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as k
k.utils.set_random_seed(0)
layers = [k.layers.Conv2D(8, 3, activation="relu", name="conv"), k.layers.Flatten(name="flat"),
          k.layers.Dense(5, name="dense")]
model = k.Sequential([k.Input((7, 9, 3)), *layers])
x, y = np.random.normal(size=(64, 7, 9, 3)), np.random.normal(size=(64, 5))
prune = tfmot.sparsity.keras
schedule = prune.ConstantSparsity(0.7, 0, frequency=1)
pruned = prune.prune_low_magnitude(model, pruning_schedule=schedule)
pruned.compile("adam", "mse")
pruned.fit(x, y, epochs=2, verbose=0, callbacks=[prune.UpdatePruningStep()])
pruned.save(sys.argv[3])
prune.strip_pruning(pruned).save(sys.argv[1])
cluster = tfmot.clustering.keras
start = cluster.CentroidInitialization.KMEANS_PLUS_PLUS
clustered = cluster.cluster_weights(model, number_of_clusters=6, cluster_centroids_init=start)
clustered.compile("adam", "mse")
clustered.fit(x, y, epochs=1, verbose=0)
clustered.save(sys.argv[4])
cluster.strip_clustering(clustered).save(sys.argv[2])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A pruned and a clustered model as the package saves them, stripped and in wrappers."""
    python = os.environ.get(TFMOT_PYTHON)
    if not python:
        pytest.skip(f"set {TFMOT_PYTHON} to a Python that has tensorflow-model-optimization")
    folder = tmp_path_factory.mktemp("tfmot")
    names = ("pruned", "clustered", "pruned_wrapped", "clustered_wrapped")
    paths = tuple(folder / f"{name}.h5" for name in names)
    made = subprocess.run([python, "-c", _MAKE, *map(str, paths)], capture_output=True, text=True)
    assert not made.returncode, made.stderr[-2000:]
    return paths


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: model.get_layer(name).get_weights()[0] for name in ("conv", "dense")}


def quantized(model: keras.Model, **settings) -> tfeptq.QuantizedModel:
    samples = np.random.default_rng(0).normal(size=(48, 7, 9, 3)).astype(np.float32)
    config = tfeptq.QuantizationConfig(
        samples=48, first_last_bits=None, batch_size=16, steps=20, **settings
    )
    return tfeptq.quantize(model, samples, config)


RECIPES = [
    {"rounding": "nearest"},
    {"rounding": "optq"},
    {"rounding": "eptq"},
    {"rounding": "eptq", "initial_rounding": "optq"},
]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(recipe.values()))
def test_pruned_zeros_stay_zero(files, recipe, bits):
    model = tfeptq.load_model(files[0])
    found = quantized(model, weight_bits=bits, **recipe)
    for name, kernel in kernels(model).items():
        assert np.mean(kernel == 0) > 0.6
        assert not found.get_layer(name).integers()[kernel == 0].any()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(recipe.values()))
def test_pruned_zeros_stay_zero_on_grids_of_whole_tensors(files, recipe):
    model = tfeptq.load_model(files[0])
    found = quantized(model, weight_bits=4, target="microcontroller", **recipe)
    dense = found.get_layer("dense")
    assert not dense.per_channel
    assert not dense.integers()[kernels(model)["dense"] == 0].any()


def test_zeros_show_in_the_gzipped_size(files, tmp_path):
    model = tfeptq.load_model(files[0])
    pruned = quantized(model, rounding="optq")
    generator = np.random.default_rng(0)
    for name, kernel in kernels(model).items():
        layer = model.get_layer(name)
        full = np.where(kernel == 0, generator.normal(size=kernel.shape) * kernel.std(), kernel)
        layer.set_weights([full, layer.get_weights()[1]])
    full = quantized(model, rounding="optq")
    sparse, dense = (
        tflite_export.export(found, tmp_path / f"{name}.tflite")
        for name, found in (("pruned", pruned), ("full", full))
    )
    assert abs(sparse.size_bytes - dense.size_bytes) < 64
    assert sparse.gzip_bytes < 0.9 * dense.gzip_bytes


def test_wrappers_left_on_are_taken_off(files):
    for stripped, wrapped in (files[0::2], files[1::2]):
        expected, found = tfeptq.load_model(stripped), tfeptq.load_model(wrapped)
        assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
        for name, kernel in kernels(expected).items():
            np.testing.assert_array_equal(kernels(found)[name], kernel)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(recipe.values()))
def test_clustered_weights_keep_their_levels(files, recipe):
    model = tfeptq.load_model(files[1])
    found = quantized(model, weight_bits=4, **recipe)
    for name, kernel in kernels(model).items():
        integers = found.get_layer(name).integers()
        for channel in range(kernel.shape[-1]):
            values, codes = kernel[..., channel].ravel(), integers[..., channel].ravel()
            for level in np.unique(values):
                assert len(np.unique(codes[values == level])) == 1
