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
prune, cluster = tfmot.sparsity.keras, tfmot.clustering.keras
schedule = prune.ConstantSparsity(0.7, 0, frequency=1)
start = cluster.CentroidInitialization.KMEANS_PLUS_PLUS
wrappers = {
    "pruned": lambda layer: prune.prune_low_magnitude(layer, pruning_schedule=schedule),
    "clustered": lambda layer: cluster.cluster_weights(
        layer, number_of_clusters=6, cluster_centroids_init=start),
}
wrapped = lambda layer: wrappers.get(layer.name.split("_")[0], lambda layer: layer)(layer)
conv = lambda name: k.layers.Conv2D(8, 3, activation="relu", name=name)
dense = lambda name: k.layers.Dense(5, activation="relu", name=name)
model = k.Sequential([
    k.Input((7, 9, 3)),
    *map(conv, ("pruned_conv_8", "pruned_conv_4", "clustered_conv")),
    k.layers.Flatten(name="flat"),
    *map(dense, ("pruned_dense_8", "pruned_dense_4")),
    k.layers.Dense(4, name="clustered_dense"),
])
model = k.models.clone_model(model, clone_function=wrapped)
x, y = np.random.normal(size=(64, 7, 9, 3)), np.random.normal(size=(64, 4))
model.compile("adam", "mse")
model.fit(x, y, epochs=2, verbose=0, callbacks=[prune.UpdatePruningStep()])
model.save(sys.argv[2])
cluster.strip_clustering(prune.strip_pruning(model)).save(sys.argv[1])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A model of pruned and clustered layers as the package saves it, stripped and in wrappers."""
    python = os.environ.get(TFMOT_PYTHON)
    if not python:
        pytest.skip(f"set {TFMOT_PYTHON} to a Python that has tensorflow-model-optimization")
    folder = tmp_path_factory.mktemp("tfmot")
    paths = tuple(folder / f"{name}.h5" for name in ("stripped", "wrapped"))
    made = subprocess.run([python, "-c", _MAKE, *map(str, paths)], capture_output=True, text=True)
    assert not made.returncode, made.stderr[-2000:]
    return paths


def kernels(model: keras.Model, kind: str = "") -> dict[str, np.ndarray]:
    """Those of layers whose names begin with `kind`."""
    layers = [layer for layer in model.layers if layer.weights and layer.name.startswith(kind)]
    return {layer.name: layer.get_weights()[0] for layer in layers}


def quantized(model: keras.Model, **settings) -> tfeptq.QuantizedModel:
    shape = (48, *model.inputs[0].shape[1:])
    samples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(recipe.values()))
def test_pruned_zeros_stay_zero_and_clustered_weights_keep_their_levels(files, recipe):
    model = tfeptq.load_model(files[0])
    bits = {name: 8 if name.endswith("_8") else 4 for name in kernels(model)}
    found = quantized(model, weight_bits=bits, **recipe)
    assert len(kernels(model, "pruned")) == 4
    for name, kernel in kernels(model, "pruned").items():
        assert found.bit_widths[name][0] == bits[name]
        assert np.mean(kernel == 0) > 0.6
        assert not found.get_layer(name).integers()[kernel == 0].any()
    assert len(kernels(model, "clustered")) == 2
    for name, kernel in kernels(model, "clustered").items():
        assert len(np.unique(kernel)) <= 6
        integers = found.get_layer(name).integers()
        for channel in range(kernel.shape[-1]):
            values, codes = kernel[..., channel].ravel(), integers[..., channel].ravel()
            for level in np.unique(values):
                assert len(np.unique(codes[values == level])) == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(recipe.values()))
def test_pruned_zeros_stay_zero_on_grids_of_whole_tensors(files, recipe):
    layer = tfeptq.load_model(files[0]).get_layer("pruned_dense_8")
    kernel = layer.get_weights()[0]
    model = keras.Sequential([keras.Input(kernel.shape[:1]), layer])
    found = quantized(model, weight_bits=4, target="microcontroller", **recipe)
    dense = found.get_layer("pruned_dense_8")
    assert not dense.per_channel
    assert np.mean(kernel == 0) > 0.6
    assert not dense.integers()[kernel == 0].any()


def test_zeros_show_in_the_gzipped_size(files, tmp_path):
    model = tfeptq.load_model(files[0])
    pruned = quantized(model, rounding="optq")
    generator = np.random.default_rng(0)
    for name, kernel in kernels(model, "pruned").items():
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
    expected, found = (tfeptq.load_model(path) for path in files)
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    assert len(kernels(expected)) == 6
    for name, kernel in kernels(expected).items():
        np.testing.assert_array_equal(kernels(found)[name], kernel)
