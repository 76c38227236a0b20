"""The examples in the docstrings of public names run, and say what comes out."""

from __future__ import annotations

import doctest
import inspect
import math

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: What examples of classes would show is what functions give back.
RESULTS = {
    "CheckResult",
    "ExportResult",
    "FrontierPoint",
    "Inspection",
    "IntegerGraph",
    "LayerComparison",
    "ModelComparison",
    "Restoration",
    "UnsupportedLayerError",
    "Verification",
    "VerificationError",
}
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (tfeptq, tflite_export)
    for name in package.__all__
    if name not in RESULTS and not name.startswith("__")
}


@pytest.fixture(scope="module")
def names():
    """What examples take for given: a trained model, samples, and what came of them."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(8, "relu", name="first"),
            layers.Dense(8, "relu", name="middle"),
            layers.Dense(2, name="last"),
        ],
        name="net",
    )
    samples = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    labels = model.predict(samples, verbose=0).argmax(1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="nearest", samples=64)
    quantized = tfeptq.quantize(model, samples, config)
    return {
        "config": config,
        "keras": keras,
        "labels": labels,
        "model": model,
        "np": np,
        "quantized": quantized,
        "samples": samples,
        "tfeptq": tfeptq,
        "tflite_export": tflite_export,
    }


@pytest.fixture
def folder(names, tmp_path, monkeypatch):
    """A folder with the file that examples read; no bar may mix with what they print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfeptq.progress.PATIENCE", math.inf)
    tflite_export.export(names["quantized"], "m.tflite")
    return tmp_path


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name(name, names, folder):
    examples = doctest.DocTestParser().get_doctest(
        inspect.getdoc(PUBLIC[name]), dict(names), name, None, None
    )
    assert examples.examples, f"{name} has no example"
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(examples, out=printed.append)
    assert not runner.failures, "".join(printed)
