"""Facts of a graph are found once a tensor, however many paths lead through it."""

from __future__ import annotations

from collections import Counter

import keras
import pytest
from keras import layers as L

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.canonical.topology import Topology

WAYS = {
    "sums, which keep no order": lambda x: L.Add()([L.LeakyReLU()(x), L.Dense(4)(x)]),
    "maxima, which keep it": lambda x: L.Maximum()([L.LeakyReLU()(x), L.ReLU()(x)]),
}


@pytest.mark.parametrize("name", WAYS)
def test_paths_that_double_are_walked_once(name, monkeypatch):
    inputs = keras.Input((4,))
    x = L.Dense(4)(inputs)
    for _ in range(12):
        x = WAYS[name](x)
    topology = Topology(LayerGraph.of(keras.Model(inputs, L.Dense(2)(x))))
    asked: Counter[object] = Counter()
    plain = Topology._is_public

    def counted(self, key):
        asked[key] += 1
        assert asked[key] <= 2, f"{key} is walked again"
        return plain(self, key)

    monkeypatch.setattr(Topology, "_is_public", counted)
    for key in topology.written():
        assert topology.seen(key)
