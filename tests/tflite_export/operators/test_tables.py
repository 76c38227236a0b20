"""Tables of a function of one integer: exact at every integer, in every runtime that takes them."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tflite_export.file.reader import parse, to_graph
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.graph.validation import validated
from tflite_export.operators.tables import integers, place_operators
from tflite_export.packaging import vela_report
from tflite_export.runtimes import reference
from tflite_export.runtimes.sessions import RUNTIMES, open_session
from tflite_export.targets import ethos_u
from tflite_export.targets.left_out import left_out

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="Vela is not installed (extra 'ethos-u')"
)


def table_of(dtype: str, *shape: int) -> IntegerGraph:
    """A random function of a tensor that holds integers of a type."""
    given, made = one.activation("x", shape, dtype, 0.1, 3), one.activation("y", shape, dtype, 0.2)
    info = np.iinfo(dtype)
    results = np.random.default_rng(0).integers(info.min, info.max + 1, len(integers(dtype)))
    data = results.astype(dtype)
    table = dataclasses.replace(made, name="t", shape=data.shape, data=data, bits=info.bits)
    tensors, operators = place_operators(given, "x", lambda name: name)
    found: dict[str, Tensor] = {each.name: each for each in (given, made, table, *tensors)}
    operators.append(Operator("GATHER", ("t", tensors[-1].name), ("y",), "layer", {}))
    return validated(IntegerGraph("table", found, tuple(operators), (("x", "x"),), (("y", "y"),)))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("int8", (16, 16)), ("int8", (4, 8, 8)), ("int8", (4, 4, 4, 4)), ("int16", (256, 256))],
)
def test_every_integer_has_its_own_result(dtype, shape, runtime):
    if reason := RUNTIMES[runtime].missing():
        pytest.skip(f"{runtime}: {reason}")
    graph = table_of(dtype, 1, *shape)
    if left_out(graph, {}, runtime):
        assert (runtime, dtype) == ("tflm", "int16")
        return
    every = integers(dtype).astype(dtype).reshape(1, *shape)
    expected = graph.tensors["t"].data.reshape(every.shape)
    np.testing.assert_array_equal(reference.run(graph, [every])["y"], expected)
    np.testing.assert_array_equal(open_session(write(graph), runtime)([every])[0], expected)


def test_a_file_gives_the_graph_back():
    graph = table_of("int8", 1, 4, 4)
    again = to_graph(parse(write(graph)))
    every = integers("int8").astype(np.int8).reshape(16, 4, 4)
    made = reference.run(again, [every])[again.outputs[0][1]]
    np.testing.assert_array_equal(made, reference.run(graph, [every])["y"])


@needs_vela
def test_vela_leaves_them_on_the_cpu_where_we_say_so():
    content = write(table_of("int8", 1, 4, 4, 2))
    ours = {finding.operator for finding in ethos_u.findings(parse(content))}
    assert ours == {finding.operator for finding in vela_report(content).cpu_operators}
    assert len(ours) == 2
