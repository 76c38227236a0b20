"""Export is all or nothing, and verification finds what is wrong."""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.weighted_layers import convolution
from tflite_export import verify
from tflite_export.file.as_graph import to_graph
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference, sessions
from tflite_export.targets.containers import plan_storage

GENERATOR = np.random.default_rng(0)


def test_export_writes_verifies_and_reports(tmp_path):
    path = tmp_path / "m.tflite"
    result = tflite_export.export(convolution(), path, target="android")
    assert result.size_bytes == path.stat().st_size
    (layer,) = result.layers
    assert (layer.weight_bits, layer.container, layer.weight_bytes) == (4, "int4", 45)
    by_runtime = {report.runtime: report for report in result.verification.runtimes}
    assert by_runtime["litert-reference"].maximum == 0
    assert by_runtime["litert-reference"].output_agreement == 1.0


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_a_file_that_gives_its_input_back_is_verified(target, tmp_path):
    tensors = {"x": one.activation("x", (1, 4, 3), "int8", 0.04, 3)}
    graph = validated(IntegerGraph("same", tensors, (), (("a", "x"),), (("y", "x"),)))
    result = tflite_export.export(graph, tmp_path / "m.tflite", target=target)
    assert {report.output_agreement for report in result.verification.runtimes} == {1.0}
    values = np.arange(24, dtype=np.int8).reshape(2, 4, 3)
    np.testing.assert_array_equal(tflite_export.run(tmp_path / "m.tflite", values), values)


def test_files_read_back_to_the_same_graph():
    graph = convolution()
    found = to_graph(parse(write(graph, {"w": "int4"})))
    assert verify.read_back(parse(write(graph, {"w": "int4"})), graph, storage={"w": "int4"}) == 2
    np.testing.assert_array_equal(found.tensors["w"].data, graph.tensors["w"].data)
    assert found.operators[0].attributes == graph.operators[0].attributes


def tampered(graph: IntegerGraph, name: str, **changes) -> IntegerGraph:
    tensors = dict(graph.tensors)
    tensors[name] = dataclasses.replace(tensors[name], **changes)
    return dataclasses.replace(graph, tensors=tensors)


TAMPERINGS = {
    "weight": lambda g: tampered(g, "w", data=np.roll(g.tensors["w"].data, 1)),
    "bias": lambda g: tampered(g, "b", data=g.tensors["b"].data + 1),
    "scale": lambda g: tampered(g, "y", quantization=one.quantization(0.0501, -128)),
    "zero point": lambda g: tampered(g, "x", quantization=one.quantization(0.04, 4)),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_file_that_differs_from_what_was_learned_is_found(what):
    graph = convolution()
    content = write(TAMPERINGS[what](graph), {"w": "int4"})
    with pytest.raises(tflite_export.VerificationError, match=r"tensor '[wbxy]'"):
        verify.verify(content, graph, storage={"w": "int4"}, target="android")


def test_a_kernel_that_computes_something_else_is_named_and_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    original = reference.run_operator

    def off_by_three(operator, tensors, inputs):
        return original(operator, tensors, inputs) - np.int8(3)

    monkeypatch.setattr(reference, "run_operator", off_by_three)
    with pytest.raises(
        tflite_export.VerificationError, match=r"operator CONV_2D of layer 'layer' is \d+ LSB"
    ):
        tflite_export.export(convolution(), path, target="android")
    assert list(tmp_path.iterdir()) == []


def three_operators(second: str) -> IntegerGraph:
    """ReLU, a function of one tensor, and the sum of both."""
    names, shape = ("x", "first", "second", "y"), (1, 4, 5, 3)
    tensors = {name: one.activation(name, shape, "int8", 0.1, 3) for name in names}
    operators = (
        Operator("RELU", ("x",), ("first",), "first"),
        Operator(second, ("first",), ("second",), "second"),
        Operator("ADD", ("first", "second"), ("y",), "third", {"activation": "NONE"}),
    )
    return validated(IntegerGraph("m", tensors, operators, (("x", "x"),), (("y", "y"),)))


@given(data=st.data())
@settings(max_examples=30)
def test_what_the_reference_knows_already_changes_no_difference(data):
    """Operators whose inputs are as in the whole net are not computed again."""
    graph = three_operators("RELU6")
    expected = reference.run(graph, verify.random_inputs(graph, count=2))
    moved = {
        name: array + np.int8(data.draw(st.sampled_from((0, 0, 1)))) * (array < 127)
        for name, array in expected.items()
    }
    found = verify.compare_operators(graph, moved, expected)
    assert found == verify.compare_operators(graph, moved)


def test_an_existing_file_survives_a_failed_export(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="Edge TPU"):
        tflite_export.export(convolution(), path, target="coral")
    assert path.read_bytes() == b"precious"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*m\.tflite"):
        tflite_export.export(convolution(), tmp_path / "m.tflite", target="android")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        tflite_export.export(convolution(), tmp_path / "no" / "m.tflite", target="android")


def test_a_graph_without_a_target_needs_one(tmp_path):
    with pytest.raises(ValueError, match=r"pass target=, one of 'android', 'coral'"):
        tflite_export.export(convolution(), tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("target", "bits", "container"),
    [
        ("android", 4, "int4"),
        ("android", 2, "int4"),
        ("android", 5, "int8"),
        ("ethos-u", 2, "int8"),
        ("microcontroller", 3, "int4"),
        ("coral", 8, "int8"),
    ],
)
def test_containers_follow_the_target(target, bits, container):
    assert plan_storage(convolution(bits), target) == {"w": container}


def test_operators_that_the_target_lacks_are_refused_by_layer():
    graph = one.graph_of(
        "HARD_SWISH",
        [one.activation("x", (1, 3, 5, 2), "int16", 0.01)],
        one.activation("y", (1, 3, 5, 2), "int16", 0.01),
    )
    with pytest.raises(ValueError, match="layer 'layer': HARD_SWISH is correct with int8 only"):
        plan_storage(graph, "android")


def test_samples_of_the_user_are_checked(tmp_path):
    path = tmp_path / "m.tflite"
    samples = GENERATOR.normal(size=(3, 6, 7, 3)).astype("float32")
    result = tflite_export.export(convolution(), path, target="android", samples=samples)
    assert result.verification.samples == 3
    with pytest.raises(ValueError, match=r"samples of input 'x'"):
        tflite_export.export(convolution(), path, target="android", samples=samples[:, 1:])


def test_the_whole_reference_network_equals_the_runtime():
    graph = convolution(kind="DEPTHWISE_CONV_2D")
    samples = one.random_samples(graph)
    found = one.in_runtime(graph, samples, storage={"w": "int4"})
    np.testing.assert_array_equal(found, reference.run(graph, samples)["y"])


def test_what_one_runtime_lacks_is_proven_by_another(tmp_path, monkeypatch):
    """LiteRT's reference kernels have no ELU: they prove what stands before and behind it."""
    graph = three_operators("ELU")
    result = tflite_export.export(graph, tmp_path / "m.tflite", target="android")
    exact, optimized = result.verification.runtimes
    assert exact.left_out == ("second",)
    assert [difference.kind for difference in exact.operators] == ["RELU", "ADD"]
    assert (exact.maximum, exact.output_agreement) == (0, 1.0)
    assert [difference.kind for difference in optimized.operators] == ["RELU", "ELU", "ADD"]
    uint8 = tflite_export.export(
        graph, tmp_path / "u.tflite", target="android", input_type="uint8", output_type="uint8"
    )
    assert uint8.verification.runtimes[1].maximum <= 1
    with pytest.raises(
        ValueError, match="ELU is not available on target 'coral', but with int8 on"
    ):
        tflite_export.export(graph, tmp_path / "c.tflite", target="coral")
    missing = {**sessions.RUNTIMES, "tflm": sessions.Runtime(lambda content: None, lambda: "no")}
    monkeypatch.setattr(sessions, "RUNTIMES", missing)
    with pytest.raises(
        verify.VerificationError, match="ELU of layer 'second' was run by no runtime"
    ):
        tflite_export.export(graph, tmp_path / "n.tflite", target="microcontroller")


def embedding(rows: int = 50) -> IntegerGraph:
    """Tokens, their entries of a table, and what a ReLU leaves of them."""
    generator = np.random.default_rng(0)
    table = one.activation("table", (rows, 6), "int8", 0.02, 5)
    values = generator.integers(-128, 128, table.shape).astype(np.int8)
    tensors = {
        "tokens": Tensor("tokens", (1, 7), "int32", one.quantization(1.0), bits=32),
        "table": dataclasses.replace(table, data=values),
        "entries": dataclasses.replace(table, name="entries", shape=(1, 7, 6)),
        "y": dataclasses.replace(table, name="y", shape=(1, 7, 6)),
    }
    operators = (
        Operator("GATHER", ("table", "tokens"), ("entries",), "embedding"),
        Operator("RELU", ("entries",), ("y",), "relu"),
    )
    ends = (("tokens", "tokens"),), (("y", "y"),)
    return validated(IntegerGraph("tokens", tensors, operators, *ends))


@pytest.mark.parametrize("target", ["android", "ethos-u", "microcontroller"])
def test_tokens_choose_entries_of_a_table(tmp_path, target):
    graph, path = embedding(), tmp_path / "m.tflite"
    result = tflite_export.export(graph, path, target=target)
    assert all(report.maximum == 0 for report in result.verification.runtimes)
    tokens = np.array([[0, 49, 3, 3, 7, 20, 1]])
    held = graph.tensors[graph.outputs[0][1]].quantization
    chosen = np.maximum(graph.tensors["table"].data[tokens], 5).astype(np.float32)
    # Numbers of rows are integers whatever is asked for: results are real numbers.
    expected = (chosen - held.zero_point) * held.scale[0]
    for runtime in ("litert", "reference"):
        np.testing.assert_array_equal(tflite_export.run(path, tokens, runtime=runtime), expected)
    with pytest.raises(ValueError, match="index 50 into a table of 50; allowed are 0 to 49"):
        tflite_export.run(path, tokens + 1, runtime="reference")


@pytest.mark.parametrize("target", ["android", "microcontroller"])
def test_the_place_of_the_largest_is_an_output(tmp_path, target):
    """What a segmentation gives a pixel: one number instead of a score a class."""
    scores = one.activation("x", (1, 4, 5, 6), "int8", 0.1)
    output = Tensor("y", (1, 4, 5), "int32", one.quantization(1.0), bits=32)
    graph, path = one.graph_of("ARG_MAX", [scores], output, {"axis": (3,)}), tmp_path / "m.tflite"
    result = tflite_export.export(graph, path, target=target)
    assert all(report.output_agreement == 1 for report in result.verification.runtimes)
    samples = one.random_samples(graph)
    np.testing.assert_array_equal(tflite_export.run(path, samples), samples[0].argmax(-1))
    floats = samples[0].astype(np.float32) / 10
    np.testing.assert_array_equal(tflite_export.run(path, floats), samples[0].argmax(-1))
    with pytest.raises(ValueError, match="ARG_MAX is not available on target 'ethos-u', but with"):
        tflite_export.export(graph, path, target="ethos-u")
    with pytest.raises(ValueError, match="writes int8, need int32"):
        one.graph_of(
            "ARG_MAX", [scores], one.activation("y", (1, 4, 5), "int8", 1.0), {"axis": (3,)}
        )
