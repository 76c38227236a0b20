"""Which operator is blamed when a runtime refuses a graph or dies of it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tflite_export import one_operator as one
from tflite_export.file.reader import parse
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.runtimes import culprit as module
from tflite_export.runtimes.culprit import beginning, culprit
from tflite_export.runtimes.isolation import WorkerError
from tflite_export.runtimes.sessions import open_session

SIZE = 4


def chain(kinds: list[str], *, dtype: str = "int8", size: int = SIZE) -> IntegerGraph:
    """Operators one behind the other, each with a layer of its own."""
    scale = 2.0**-15 if dtype == "int16" else 2.0**-8
    tensors = {"t0": one.activation("t0", (1, size), dtype, scale, -128)}
    operators = []
    for index, kind in enumerate(kinds):
        name = f"t{index + 1}"
        tensors[name] = one.activation(name, (1, size), dtype, scale, -128)
        operators.append(Operator(kind, (f"t{index}",), (name,), f"layer_{index}", {}))
    end = f"t{len(kinds)}"
    return validated(IntegerGraph("c", tensors, tuple(operators), (("x", "t0"),), (("y", end),)))


def branches(left: int, right: int) -> IntegerGraph:
    """Two chains of one input that nothing joins."""
    tensors, operators, ends = {"t": one.activation("t", (1, SIZE), "int8", 2.0**-8, -128)}, [], []
    for side, count in (("left", left), ("right", right)):
        last = "t"
        for index in range(count):
            name = f"{side}{index}"
            tensors[name] = one.activation(name, (1, SIZE), "int8", 2.0**-8, -128)
            operators.append(Operator("LOGISTIC", (last,), (name,), f"layer_{name}", {}))
            last = name
        ends.append((side, last))
    return validated(IntegerGraph("b", tensors, tuple(operators), (("x", "t"),), tuple(ends)))


class FailingRuntime:
    """Fails at one layer's operator, in whatever graph it stands; counts what it is asked."""

    def __init__(self, tensor: str) -> None:
        self.tensor, self.asked = tensor, 0

    def open(self, content: bytes, runtime: str):
        self.asked += 1
        stored = parse(content)
        written = {stored.tensors[o.outputs[0]].name for o in stored.operators}

        def session(arrays):
            if self.tensor in written:
                raise ValueError(f"no {self.tensor} among {len(written)}")
            return open_session(content, "reference")(arrays)

        return session


@given(graph=st.builds(branches, st.integers(1, 9), st.integers(1, 9)), data=st.data())
def test_the_failing_operator_is_found_wherever_it_stands(graph, data):
    index = data.draw(st.integers(0, len(graph.operators) - 1))
    wrong = graph.operators[index]
    runtime = FailingRuntime(wrong.outputs[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_session", runtime.open)
        found = culprit(graph, {}, "litert", one.random_samples(graph))
    assert found is not None
    assert found[0] == wrong
    # The error is that of the shortest beginning that fails, which ends with the operator.
    assert str(found[1]) == f"no {wrong.outputs[0]} among {index + 1}"
    assert runtime.asked <= 2 + np.ceil(np.log2(len(graph.operators)))


@given(graph=st.builds(branches, st.integers(1, 5), st.integers(1, 5)), data=st.data())
def test_beginnings_compute_what_the_whole_computes(graph, data):
    """All that no operator of the beginning reads is an output of it, with the same values."""
    samples = one.random_samples(graph)
    part = validated(beginning(graph, data.draw(st.integers(1, len(graph.operators)))))
    whole = {name for operator in graph.operators for name in operator.outputs}
    twin = validated(
        IntegerGraph(
            "all", graph.tensors, graph.operators, graph.inputs, tuple((n, n) for n in whole)
        )
    )
    expected = dict(zip(whole, run(twin, samples), strict=True))
    names = [name for _, name in part.outputs]
    assert set(names) == {o.outputs[0] for o in part.operators} - {
        name for o in part.operators for name in o.inputs
    }
    for name, values in zip(names, run(part, samples), strict=True):
        np.testing.assert_array_equal(values, expected[name])


def run(graph: IntegerGraph, samples):
    return open_session(module.write(graph, {}), "reference")(samples)


def test_a_graph_that_does_not_fail_again_has_no_culprit():
    graph = chain(["LOGISTIC"] * 3)
    assert culprit(graph, {}, "litert-reference", one.random_samples(graph)) is None


@pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="extra 'microcontroller' is missing"
)
@pytest.mark.parametrize("index", [0, 2, 3])
def test_an_operator_that_a_real_runtime_refuses(index):
    kinds = ["RELU"] * 4
    kinds[index] = "HARD_SWISH"
    graph = chain(kinds, dtype="int16")
    operator, error = culprit(graph, {}, "tflm", one.random_samples(graph))
    assert operator.layer == f"layer_{index}"
    assert "Unsupported type INT16" in str(error)


def test_an_operator_that_a_real_runtime_dies_of():
    """A softmax over more than 511 equal values ends LiteRT's reference kernels by SIGABRT."""
    graph = chain(["LOGISTIC", "SOFTMAX", "LOGISTIC", "LOGISTIC"], size=600)
    flat = [np.zeros((1, 600), np.int8)]
    operator, error = culprit(graph, {}, "litert-reference", flat)
    assert operator.layer == "layer_1"
    assert isinstance(error, WorkerError)
    assert "SIGABRT" in str(error)
