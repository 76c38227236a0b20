"""Models deeper than Python's limit of calls within calls."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
from tfeptq.preparation.nodes import Graph, Input, Node, primitive
from tfeptq.preparation.rebuild import rebuild


@pytest.fixture
def limit():
    """Fewer calls than usual: a thousand layers take long to make and to read."""
    before, lower = sys.getrecursionlimit(), 400
    sys.setrecursionlimit(lower)
    yield lower
    sys.setrecursionlimit(before)


def test_a_model_may_be_deeper_than_python_calls(limit, tmp_path):
    first = last = Node(Input, "inputs", [], (2,))
    for index in range(limit + 10):
        last = primitive(L.ReLU, f"relu{index}", [last])
    canonical = rebuild(Graph("deep", [first], [last]))
    quantized = tfeptq.QuantizedModel(canonical.inputs, canonical.outputs)
    quantized.save(tmp_path / "deep.keras")
    loaded = keras.models.load_model(tmp_path / "deep.keras")
    values = np.float32([[-1.0, 2.0]])
    np.testing.assert_array_equal(loaded.predict(values, verbose=0), [[0.0, 2.0]])
    assert sys.getrecursionlimit() == limit
