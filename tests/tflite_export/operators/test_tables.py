"""Tables of a function of one integer: exact at every integer, in every runtime that takes them."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tflite_export.file.as_graph import to_graph
from tflite_export.file.reader import parse
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
    given = one.activation("x", shape, dtype, 0.1, 3)
    return _with_table({"x": given}, [], "x")


def table_of_squares(scale: float, *shape: int) -> IntegerGraph:
    """A random function of the squares of int16 numbers, in a scale of their own."""
    given = one.activation("x", shape, "int16", 0.1)
    squares = one.activation("squares", shape, "int16", scale)
    square = Operator("MUL", ("x", "x"), ("squares",), "square", {"activation": "NONE"})
    return _with_table({"x": given, "squares": squares}, [square], "squares")


def _with_table(tensors: dict[str, Tensor], operators: list[Operator], name: str) -> IntegerGraph:
    source = tensors[name]
    made = one.activation("y", source.shape, source.dtype, 0.2)
    info, read = np.iinfo(source.dtype), integers(tensors, operators, name)
    data = np.random.default_rng(0).integers(info.min, info.max + 1, len(read)).astype(info.dtype)
    table = dataclasses.replace(made, name="t", shape=data.shape, data=data, bits=info.bits)
    places, making = place_operators(source, int(read[0]), "layer", lambda wanted: wanted)
    found = {**tensors, **{each.name: each for each in (made, table, *places)}}
    gather = Operator("GATHER", ("t", places[-1].name), ("y",), "layer", {})
    graph = (*operators, *making, gather)
    return validated(IntegerGraph("table", found, graph, (("x", "x"),), (("y", "y"),)))


def every_integer(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).astype(dtype)


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
    every = every_integer(dtype).reshape(1, *shape)
    expected = graph.tensors["t"].data.reshape(every.shape)
    np.testing.assert_array_equal(reference.run(graph, [every])["y"], expected)
    np.testing.assert_array_equal(open_session(write(graph), runtime)([every])[0], expected)


@pytest.mark.parametrize("runtime", ["litert", "litert-reference"])
@pytest.mark.parametrize("scale", [0.4, 20.0, 330.0, 1e5])
def test_tables_of_what_cannot_be_negative_are_half_as_long(scale, runtime):
    """Of every int16, squared: results clipped, all kept apart, and nearly all of them zero."""
    graph = table_of_squares(scale, 1, 256, 256)
    assert graph.tensors["t"].data.shape == (2**15,)
    assert [each.kind for each in graph.operators] == ["MUL", "CAST", "GATHER"]
    every = every_integer("int16").reshape(1, 256, 256)
    expected = reference.run(graph, [every])["y"]
    np.testing.assert_array_equal(open_session(write(graph), runtime)([every])[0], expected)


def test_a_file_gives_the_graph_back():
    graph = table_of("int8", 1, 4, 4)
    again = to_graph(parse(write(graph)))
    every = every_integer("int8").reshape(16, 4, 4)
    made = reference.run(again, [every])[again.outputs[0][1]]
    np.testing.assert_array_equal(made, reference.run(graph, [every])["y"])


@needs_vela
def test_vela_leaves_them_on_the_cpu_where_we_say_so():
    content = write(table_of("int8", 1, 4, 4, 2))
    ours = {finding.operator for finding in ethos_u.findings(parse(content))}
    assert ours == {finding.operator for finding in vela_report(content).cpu_operators}
    assert len(ours) == 2
