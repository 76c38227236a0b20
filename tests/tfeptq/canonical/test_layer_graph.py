"""Tensors of a graph that are computed for somebody, and for no longer than that."""

from __future__ import annotations

import ast
import weakref
from pathlib import Path

import keras
import numpy as np
from keras import layers as L

import tfeptq
from tests.tfeptq import small_models
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.preparation import prepare


def test_wanted_tensors_are_those_of_a_whole_execution():
    model, images = prepare(small_models.residual_network()), small_models.images(3)
    graph = LayerGraph.of(model)
    expected = graph.execute([images])
    keys = [*graph.outputs, *(call.output for call in graph.calls), *graph.inputs]
    for key, found in zip(keys, graph.compute([images], keys), strict=True):
        np.testing.assert_array_equal(found, expected[key])
    # One at a time, so that all others may go; and one that is wanted twice.
    for key in keys:
        for found in graph.compute([images], [key, key]):
            np.testing.assert_array_equal(found, expected[key])


def test_a_tensor_is_gone_when_its_last_reader_has_read_it():
    inputs = keras.Input((4,))
    tensor = first = L.Dense(4, activation="tanh")(inputs)
    for _ in range(12):
        tensor = L.Dense(4, activation="tanh")(tensor)
    model = prepare(keras.Model(inputs, L.Add()([tensor, first])))
    graph, alive, most = LayerGraph.of(model), set(), []

    def run(call):
        def made(arguments):
            most.append(len(alive))
            result = call(arguments)
            alive.add(call.output)
            weakref.finalize(result, alive.discard, call.output)
            return result

        return made

    graph.compute([np.ones((2, 4), np.float32)], graph.outputs, run=run)
    assert len(most) == len(graph.calls) > 20
    # What the sum waits for, and what the call reads.
    assert max(most) == 2


def test_nobody_asks_keras_for_layers_by_name():
    """`get_layer` looks through all layers each time: asked once a layer, their square."""
    package = Path(tfeptq.__file__).parent
    found = [
        f"{path.relative_to(package)}: {ast.unparse(node)}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get_layer")
    ]
    assert not found, f"{found}: take LayerGraph.of(model).layers"
