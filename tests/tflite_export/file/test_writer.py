"""Files: all that is written is read back, equal graphs give equal bytes, runtimes load them."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, WEIGHTED, Draw, random_graph
from tflite_export.file.as_graph import to_graph
from tflite_export.file.reader import parse, read_bytes
from tflite_export.file.writer import write
from tflite_export.graph.kinds import kind_of
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference
from tflite_export.runtimes.sessions import open_session
from tflite_export.targets.tflite_runtime import newest_versions

CASES = [(kind, dtype) for kind in BUILDERS for dtype in ("int8", "int16")]


def assert_same_tensor(found: Tensor, expected: Tensor) -> None:
    assert (found.name, found.shape, found.dtype) == (expected.name, expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.quantization.scale, expected.quantization.scale)
    assert found.quantization.zero_point == expected.quantization.zero_point
    assert found.quantization.axis == expected.quantization.axis
    assert found.is_constant == expected.is_constant
    if found.data is not None and expected.data is not None:
        assert found.data.dtype == expected.data.dtype
        np.testing.assert_array_equal(found.data, expected.data)


def assert_same_graph(found: IntegerGraph, expected: IntegerGraph) -> None:
    """Equality of all that a file holds: it knows containers, not learned bits or layer names."""
    assert (found.name, found.inputs, found.outputs) == (
        expected.name,
        expected.inputs,
        expected.outputs,
    )
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in found.tensors.items():
        assert_same_tensor(tensor, expected.tensors[name])
    for left, right in zip(found.operators, expected.operators, strict=True):
        assert (left.kind, left.inputs, left.outputs) == (right.kind, right.inputs, right.outputs)
        assert left.attributes == right.attributes


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_graphs_round_trip(kind, dtype):
    for seed in range(4):
        graph = random_graph(kind, dtype, seed)
        assert_same_graph(validated(to_graph(parse(write(graph)))), graph)


def test_equal_vectors_are_written_once():
    graph = random_graph("CONV_2D", "int8", 0)
    subgraph = schema.Model.GetRootAs(write(graph), 0).Subgraphs(0)
    tensors = {
        tensor.Name().decode(): tensor.Quantization()
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength()))
    }
    zeros = {name: tensors[name].ZeroPointAsNumpy() for name in ("w", "b")}
    assert zeros["w"].size == graph.tensors["w"].quantization.scale.size > 1
    assert zeros["w"].ctypes.data == zeros["b"].ctypes.data
    scales = {name: tensors[name].ScaleAsNumpy() for name in ("w", "b")}
    assert scales["w"].ctypes.data != scales["b"].ctypes.data


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize(("container", "bits"), [("int4", 4), ("int4", 3), ("int2", 2)])
def test_packed_weights_round_trip_in_fewer_bytes(kind, container, bits):
    graph = WEIGHTED[kind](Draw(2, "int8"), bits)
    stored = parse(write(graph, {"w": container}))
    assert_same_graph(to_graph(stored), graph)
    weights = next(tensor for tensor in stored.tensors if tensor.name == "w")
    assert weights.type == container
    assert graph.tensors["w"].data is not None
    assert weights.stored_bytes == -(-graph.tensors["w"].data.size * int(container[3:]) // 8)


def test_equal_graphs_give_equal_bytes():
    first, second = (write(random_graph("CONV_2D", "int8", 0)) for _ in range(2))
    assert first == second
    assert first[4:8] == b"TFL3"
    assert first != write(random_graph("CONV_2D", "int8", 1))


def buffers_of(content: bytes) -> list[tuple[int, bytes]]:
    """Position and content of every buffer that is not empty."""
    model = schema.Model.GetRootAs(content, 0)
    found = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            found.append((start, content[start : start + buffer.DataLength()]))
    return found


def test_buffers_are_aligned_inside_the_file_and_shared_when_equal():
    graph = random_graph("FULLY_CONNECTED", "int8", 3)
    weights = graph.tensors["w"]
    twin = dataclasses.replace(weights, name="w2")
    operator = graph.operators[0]
    second = dataclasses.replace(operator, inputs=("x", "w2", "b"), outputs=("y2",))
    graph = validated(
        dataclasses.replace(
            graph,
            tensors={
                **graph.tensors,
                "w2": twin,
                "y2": dataclasses.replace(graph.tensors["y"], name="y2"),
            },
            operators=(operator, second),
        )
    )
    buffers = buffers_of(write(graph))
    assert all(start % 16 == 0 for start, _ in buffers)
    assert weights.data is not None
    assert [content for _, content in buffers].count(weights.data.tobytes()) == 1


def test_tensors_of_one_name_are_read_apart():
    graph = random_graph("ADD", "int8", 0)
    stored = parse(write(graph))
    tensors = tuple(dataclasses.replace(tensor, name="same") for tensor in stored.tensors)
    found = validated(to_graph(dataclasses.replace(stored, tensors=tensors)))
    assert len(found.tensors) == len(graph.tensors)
    inputs = [
        np.random.default_rng(0).integers(-100, 100, (2, *graph.tensors[name].shape[1:]), np.int8)
        for _, name in graph.inputs
    ]
    wanted, made = reference.run(graph, inputs), reference.run(found, inputs)
    for (_, left), (_, right) in zip(graph.outputs, found.outputs, strict=True):
        np.testing.assert_array_equal(wanted[left], made[right])


def test_equal_operands_of_operators_are_one_tensor():
    graph = random_graph("RESHAPE", "int8", 3)
    operator = graph.operators[0]
    made = graph.tensors[operator.outputs[0]]
    second = dataclasses.replace(operator, outputs=("again",))
    graph = validated(
        dataclasses.replace(
            graph,
            tensors={**graph.tensors, "again": dataclasses.replace(made, name="again")},
            operators=(operator, second),
        )
    )
    stored = parse(write(graph))
    assert len(stored.tensors) == len(graph.tensors) + 1
    assert_same_graph(to_graph(stored), graph)


def test_one_tensor_as_two_outputs_keeps_both_names():
    graph = random_graph("ADD", "int8", 0)
    (_, name), *_ = graph.outputs
    twice = dataclasses.replace(graph, outputs=(("one", name), ("two", name)))
    assert to_graph(parse(write(twice))).outputs == twice.outputs


def test_public_names_are_the_signature():
    graph = random_graph("ADD", "int8", 0)
    renamed = dataclasses.replace(
        graph,
        inputs=tuple((f"public_{name}", name) for _, name in graph.inputs),
        outputs=(("scores", "y"),),
    )
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(model_content=write(renamed)).get_signature_list()
    names = sorted(f"public_{name}" for _, name in graph.inputs)
    assert signatures == {"serving_default": {"inputs": names, "outputs": ["scores"]}}


@pytest.mark.parametrize("runtime", ["litert", "litert-reference", "tflm"])
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_every_runtime_with_a_kernel_accepts_the_version(kind, dtype, runtime):
    if runtime == "tflm" and importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("tflite-micro is not installed (extra 'microcontroller')")
    graph = random_graph(kind, dtype, 0)
    # How the others fail shows test_conformance.
    if one.executes(runtime, graph):
        found = open_session(write(graph), runtime)(one.random_samples(graph, count=1))[0]
        assert found.shape == graph.tensors["y"].shape


def test_versions_are_not_newer_than_the_old_runtime_knows():
    for kind, newest in newest_versions().items():
        if kind not in BUILDERS:
            continue
        for dtype in ("int8", "int16"):
            for keep in (True, False):
                version = kind_of(kind).version(dtype, {"keep_num_dims": keep})
                assert version <= newest


def test_kept_dimensions_raise_the_version_of_dense_layers():
    versions = [
        kind_of("FULLY_CONNECTED").version("int8", {"keep_num_dims": keep})
        for keep in (False, True)
    ]
    assert versions == [4, 5]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    content = write(random_graph("CONV_2D", "int8", 0))
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="no such file"):
        read_bytes(path)
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ValueError, match="not a TensorFlow Lite file"):
        read_bytes(path)
    path.write_bytes(content)
    assert read_bytes(path) == content
    with pytest.raises(ValueError, match="damaged"):
        parse(content[: len(content) // 4])
