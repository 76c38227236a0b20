"""Files whose layers stand in wrappers of tensorflow-model-optimization, where it is not at hand.

Where it is, `tests/tfeptq/quantized/test_tfmot.py` has them taken off.
"""

from __future__ import annotations

import json
import sys

import h5py
import pytest

import tfeptq
from tfeptq.foreign import stripping
from tfeptq.foreign.stripping import TFMOT_PYTHON


@pytest.fixture
def wrapped(tmp_path):
    """Makes a file of one layer in a wrapper of a class."""

    def make(kind):
        layer = {"class_name": kind, "config": {"name": "wrapper", "layer": {}}}
        config = {"class_name": "Sequential", "config": {"name": "model", "layers": [layer]}}
        path = tmp_path / f"{kind}.h5"
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = "2.15.0"
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("model_weights")
        return path

    return make


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("PruneLowMagnitude", r"save tfmot\.sparsity\.keras\.strip_pruning\(model\) instead, or"),
        ("ClusterWeights", r"save tfmot\.clustering\.keras\.strip_clustering\(model\) instead"),
        ("QuantizeWrapperV2", r"save the float model that tfmot\.quantization"),
    ],
)
def test_without_the_package_the_function_is_named(wrapped, monkeypatch, kind, advice):
    monkeypatch.setattr(stripping.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(TFMOT_PYTHON, raising=False)
    with pytest.raises(ValueError, match=rf"layer 'wrapper' is {kind} of .*{advice}"):
        tfeptq.load_model(wrapped(kind))


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        (sys.executable, r"cannot take its wrappers off \(.*\); save tfmot\.sparsity"),
        ("/no/such/python", "TFMOT_PYTHON=/no/such/python is not a Python"),
    ],
)
def test_a_python_that_cannot_is_named(wrapped, monkeypatch, python, reason):
    monkeypatch.setenv(TFMOT_PYTHON, python)
    with pytest.raises(ValueError, match=reason):
        tfeptq.load_model(wrapped("PruneLowMagnitude"))
