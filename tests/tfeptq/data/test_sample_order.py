"""Order, form and batches of calibration samples change nothing that is decided from them.

Whole jobs; what is taken, and in which order, is in test_data.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfeptq
from tests.tfeptq import random_models, small_models
from tests.tfeptq.batches import Batches


def split(arrays, size):
    cuts = range(size, len(arrays[0]), size)
    return list(zip(*(np.split(array, cuts) for array in arrays), strict=True))


#: How arrays can be given, with batches of a size.
FORMS = {
    "arrays": lambda arrays, size: tuple(arrays),
    "generator": lambda arrays, size: iter(split(arrays, size)),
    "PyDataset": lambda arrays, size: Batches(split(arrays, size)),
    "tf.data": lambda arrays, size: tf.data.Dataset.from_tensor_slices(tuple(arrays)).batch(size),
}


def outcome(model, calibration, config) -> dict[str, np.ndarray]:
    """All that a job decides: ranges, thresholds, integers, biases, and what it kept on disk."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Few samples are the point here.
        warnings.simplefilter("ignore", UserWarning)
        quantized = tfeptq.quantize(model, calibration, config, checkpoint_dir=folder)
        found = {
            f"{path.relative_to(folder)}: {name}": array
            for path in Path(folder).rglob("*.npz")
            for name, array in np.load(path).items()
        }
    for quantizer in quantized.activation_quantizers:
        found[f"range of {quantizer.name}"] = np.array(quantizer.parameters())
    for layer in quantized.weighted_layers:
        found[f"integers of {layer.name}"] = layer.integers()
    # Thresholds and biases are among them.
    found.update((f"weight {i}", value) for i, value in enumerate(quantized.get_weights()))
    return found


def check_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    seed=st.integers(0, 2**20),
    count=st.sampled_from([1, 7, 33, 100]),
    form=st.sampled_from(sorted(FORMS)),
    batch_size=st.sampled_from([1, 5, 32, 64]),
)
def test_random_models_get_the_same_ranges_thresholds_scores_and_integers(
    seed, count, form, batch_size
):
    model = random_models.random_model(seed, steps=3)
    samples = random_models.samples(model, count, seed)
    order = np.random.default_rng(seed).permutation(count)
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", samples=64, seed=seed)
    moved = FORMS[form]([array[order] for array in samples], batch_size)
    check_equal(outcome(model, tuple(samples), config), outcome(model, moved, config))


JOBS = {
    "trained": {"weight_bits": 3, "first_last_bits": None, "steps": 3, "batch_size": 8},
    "inter_layer": {"sensitivity": "inter_layer"},
    "hawq_v2": {"sensitivity": "hawq_v2"},
}


@pytest.mark.parametrize("job", JOBS)
def test_training_and_choices_of_widths_are_the_same(job):
    model, images = small_models.chain(), small_models.images(41)
    settings = dict(JOBS[job])
    if job != "trained":
        budget = tfeptq.Budget(weight_bytes=320)
        settings |= {"weight_bits": (2, 4, 8), "rounding": "nearest", "budget": budget}
        settings |= {"first_last_bits": None, "measured_moves": 4}
    config = tfeptq.QuantizationConfig(samples=37, **settings)
    moved = FORMS["generator"]([images[::-1]], 6)
    check_equal(outcome(model, images, config), outcome(model, moved, config))


def classes_by_loudness():
    """Signals of four classes, the quiet ones first; every class is a quarter."""
    draw = np.random.default_rng(0)
    loudness = np.repeat([0.1, 0.3, 1.0, 4.0], 100)[:, None, None]
    times = np.linspace(0, 2 * np.pi, 32)[None, :, None]
    signals = loudness * np.sin(3 * times + draw.uniform(0, 6.28, (400, 1, 1)))
    return signals.astype("float32")


def loud_at_the_end():
    rows = np.random.default_rng(0).normal(size=(100, 16)).astype("float32")
    rows[-2:] *= 4.0
    return rows


def long_tailed():
    rows = np.random.default_rng(0).lognormal(sigma=1.0, size=(333, 16)).astype("float32")
    return rows[np.argsort(rows.max(axis=1))]


@pytest.mark.parametrize(
    ("make", "share"), [(classes_by_loudness, 1.0), (loud_at_the_end, 0.7), (long_tailed, 0.7)]
)
def test_sorted_data_are_quantized_as_well_as_others(make, share):
    """What the last samples hold, and nothing before them, is in the ranges."""
    keras.utils.set_random_seed(0)
    samples = make()
    head = [L.Conv1D(8, 7, 2), L.ReLU(), L.GlobalAveragePooling1D()] if samples.ndim == 3 else []
    model = keras.Sequential([L.Input(samples.shape[1:]), *head, L.Dense(16, "relu"), L.Dense(4)])
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=int(share * len(samples)))
    quantized = tfeptq.quantize(model, samples, config)
    expected, found = (np.asarray(each(samples, training=False)) for each in (model, quantized))
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()
