"""Who reads a node, while nodes come and go; and what it costs to know."""

from __future__ import annotations

import random
from collections import Counter

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L

from tests.tfeptq.preparation.canonical_check import randomize
from tfeptq.preparation import prepare
from tfeptq.preparation.nodes import Graph, Input, Node, Weights
from tfeptq.preparation.rewriting import Rewriting


def node(index, *inputs, weights=None):
    return Node(L.Add if inputs else Input, f"n{index}", list(inputs), (2,), weights=weights)


def counted(graph, value):
    """Node -> how often nodes that are reached read it; weights -> nodes that hold them."""
    nodes = graph.nodes()
    readers = Counter(source for reader in nodes for source in reader.inputs)
    holders = Counter(each.weights for each in nodes if each.weights is not None)
    return value({each: readers[each] for each in nodes}, dict(holders))


@given(seed=st.integers(0, 2**32 - 1))
def test_readers_are_those_of_a_walk_through_the_graph(seed):
    choose = random.Random(seed)
    shared = [Weights([]), Weights([])]
    nodes = [node(index) for index in range(2)]
    inputs = nodes[:]
    for index in range(2, 12):
        sources = choose.choices(nodes, k=choose.choice((1, 2, 2)))
        nodes.append(node(index, *sources, weights=choose.choice((None, None, *shared))))
    graph = Graph("model", inputs, choose.sample(nodes, k=2))
    rewriting = Rewriting(graph)
    for index in range(20, 32):
        alive = graph.nodes()
        old = choose.choice(alive)
        earlier = alive[: alive.index(old) + 1]
        if choose.random() < 0.5 and old.inputs:
            rewriting.rewire(old, choose.choices(earlier[:-1], k=len(old.inputs)))
        elif old not in inputs:
            # As folds do it: what takes its place reads it, or reads what it has read, or is that.
            new = choose.choice(
                (node(index, old), node(index, *old.inputs, weights=old.weights), earlier[0])
            )
            rewriting.replace(old, new)

        def same(readers, holders):
            assert {each: len(rewriting.readers(each)) for each in readers} == readers
            for weights, count in holders.items():
                assert len(rewriting.holders(weights)) == count

        counted(graph, same)
        assert all(each in rewriting for each in graph.nodes())
        assert sum(each in rewriting for each in alive) <= len(graph.nodes())


def unrolled(steps):
    inputs = keras.Input((steps, 3))
    hidden = L.LSTM(4, return_sequences=True)(L.BatchNormalization()(inputs))
    return randomize(keras.Model(inputs, L.Dense(2)(L.GRU(3)(hidden))))


def residual(blocks):
    inputs = x = keras.Input((8, 8, 4))
    for _ in range(blocks):
        x = L.Add()([x, L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))])
    return randomize(keras.Model(inputs, x))


@pytest.mark.parametrize("make", [unrolled, residual])
def test_a_model_twice_as_deep_is_walked_through_as_often(make, monkeypatch):
    """So the time of preparation is in proportion to its depth."""
    original, calls = Graph.nodes, []
    monkeypatch.setattr(Graph, "nodes", lambda graph: calls.append(graph) or original(graph))
    found = []
    for size in (4, 8):
        calls.clear()
        prepare(make(size))
        found.append(len(calls))
    assert found[0] == found[1]
