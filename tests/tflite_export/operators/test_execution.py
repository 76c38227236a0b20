"""Running graphs: batches, several operators, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, random_graph
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_batch_is_its_samples(kind):
    graph = random_graph(kind, "int8", 1)
    samples = one.random_samples(graph, count=5)
    together = reference.run(graph, samples)["y"]
    alone = [reference.run(graph, [s[i : i + 1] for s in samples])["y"] for i in range(5)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def two_operators() -> IntegerGraph:
    """relu(x) + z."""
    shape = (1, 4, 5, 3)
    names = ("x", "hidden", "z", "y")
    tensors = {name: one.activation(name, shape, "int8", 0.1, 3) for name in names}
    operators = (
        Operator("RELU", ("x",), ("hidden",), "relu"),
        Operator("ADD", ("hidden", "z"), ("y",), "add", {"activation": "NONE"}),
    )
    inputs = (("first", "x"), ("second", "z"))
    return validated(IntegerGraph("test", tensors, operators, inputs, (("sum", "y"),)))


def test_every_activation_is_returned_by_tensor_name():
    graph = two_operators()
    first, second = one.random_samples(graph, count=2)
    values = reference.run(graph, {"second": second, "first": first})
    assert set(values) == {"x", "z", "hidden", "y"}
    np.testing.assert_array_equal(values["hidden"], np.maximum(first, 3))
    np.testing.assert_array_equal(values["y"], one.in_runtime(graph, [first, second]))


def test_inputs_that_are_not_the_graphs_are_refused():
    graph = two_operators()
    first, second = one.random_samples(graph)
    with pytest.raises(ValueError, match="received 1 inputs, the graph takes 2"):
        reference.run(graph, [first])
    with pytest.raises(ValueError, match=r"received inputs \['first'\]"):
        reference.run(graph, {"first": first})
    with pytest.raises(ValueError, match=r"'second' takes integers \(N, 4, 5, 3\)"):
        reference.run(graph, [first, second[:, :2]])
    with pytest.raises(ValueError, match="received float32"):
        reference.run(graph, [first.astype(np.float32), second])


def test_operators_that_mix_samples_are_refused():
    source = one.activation("x", (1, 4, 5), "int8", 0.1)
    output = one.activation("y", (4, 1, 5), "int8", 0.1)
    graph = one.graph_of("TRANSPOSE", [source], output, {"permutation": (1, 0, 2)})
    with pytest.raises(ValueError, match="TRANSPOSE of layer 'layer': the result has shape"):
        reference.run(graph, one.random_samples(graph, count=3))


def test_unknown_operators_are_refused():
    graph = two_operators()
    unknown = dataclasses.replace(graph.operators[0], kind="CUMSUM")
    with pytest.raises(ValueError, match="CUMSUM is not known"):
        reference.run_operator(unknown, graph.tensors, [np.zeros((1, 4, 5, 3), np.int8)])
