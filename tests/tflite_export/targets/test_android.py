"""Delegation, latency and tflite-runtime compatibility of files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import Draw, fully_connected, random_graph
from tests.tflite_export.weighted_layers import convolution, layer
from tflite_export import check
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.runtimes import latency as timing
from tflite_export.runtimes.latency import latency
from tflite_export.runtimes.sessions import TFLITE_RUNTIME_PYTHON, open_session
from tflite_export.targets.android import _in_bytes, android_report, delegation
from tflite_export.targets.containers import plan_storage
from tflite_export.targets.tflite_runtime import obstacles


def test_xnnpack_takes_8_bit_convolutions_and_leaves_4_bit_ones():
    wide, narrow = (
        delegation(write(layer("CONV_2D", 8))),
        delegation(write(layer("CONV_2D", 4), {"w": "int4"})),
    )
    assert (wide.operators, wide.delegated, wide.left, wide.partitions) == (1, 1, (), 1)
    assert (narrow.operators, narrow.delegated, narrow.partitions) == (1, 0, 0)
    assert narrow.left == ("CONV_2D (y)",)


def test_depthwise_kernels_are_packed_by_others_only(tmp_path):
    """In XNNPACK they are five times as fast, and small in any container."""
    graph = layer("DEPTHWISE_CONV_2D", 4)
    assert plan_storage(graph, "android") == {"w": "int8"}
    assert plan_storage(graph, "microcontroller") == {"w": "int4"}
    ours, packed = (write(graph, {"w": kind}) for kind in ("int8", "int4"))
    assert delegation(ours).delegated == 1
    assert delegation(packed).delegated == 0
    (tmp_path / "m.tflite").write_bytes(packed)
    assert check(tmp_path / "m.tflite", target="android").ok
    given = one.random_samples(graph, count=3)
    exact = open_session(packed, "litert-reference")(given)[0]
    np.testing.assert_array_equal(open_session(ours, "litert-reference")(given)[0], exact)


def test_a_benchmark_file_is_delegated_up_to_pooling_and_softmax(assets):
    found = delegation(assets / "mlperf_tiny" / "ic_int8.tflite")
    assert (found.operators, found.delegated, found.partitions) == (16, 14, 2)
    assert [entry.split(" ")[0] for entry in found.left] == ["AVERAGE_POOL_2D", "SOFTMAX"]


def test_the_report_warns_of_what_is_smaller_but_slower():
    report = android_report(write(convolution(), {"w": "int4"}))
    assert "6.5 times" in report.warnings[0]
    assert report.latency.runs == 50
    assert report.latency_in_bytes.runs == 50
    assert report.slower_by == report.latency.minimum / report.latency_in_bytes.minimum
    assert report.tflite_runtime_obstacles == ()
    assert android_report(write(random_graph("ADD", "int16", 0))).warnings[0].startswith("int16")
    plain = android_report(write(layer("CONV_2D", 8)))
    assert plain.warnings == ()
    assert plain.latency_in_bytes is plain.slower_by is None


def test_packed_weights_in_bytes_are_the_same_file_but_for_their_containers():
    graph = convolution()
    packed, plain = (parse(write(graph, {"w": kind})) for kind in ("int4", "int8"))
    unpacked = _in_bytes(packed)
    assert unpacked is not None
    (found,), (expected,) = (
        [tensor for tensor in model.tensors if tensor.name == "w"]
        for model in (parse(unpacked), plain)
    )
    assert found.type == "int8"
    np.testing.assert_array_equal(found.values, expected.values)
    assert _in_bytes(plain) is None


@pytest.mark.parametrize("runtime", ["litert", "litert-reference"])
def test_latency_is_that_of_single_inferences(runtime):
    found = latency(write(layer("FULLY_CONNECTED", 8)), runtime=runtime, runs=7)
    assert found.runs == 7
    assert 0 < found.minimum <= found.median < 1000


def test_latency_stops_in_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    found = timing._timed(write(layer("FULLY_CONNECTED", 8)), "litert", runs=1000, seconds=5)
    assert found.runs == 2
    assert found.median == 1000


def test_latency_of_another_process_is_refused():
    with pytest.raises(ValueError, match="allowed are"):
        latency(write(layer("FULLY_CONNECTED", 8)), runtime="tflite-runtime")


FILES = {
    "int8": (lambda: write(layer("CONV_2D", 8)), None),
    "int4 convolution": (lambda: write(layer("CONV_2D", 4), {"w": "int4"}), None),
    "int4 dense per channel": (
        lambda: write(layer("FULLY_CONNECTED", 4), {"w": "int4"}),
        "refused, 4-bit dense weights per tensor only",
    ),
    "int2 dense": (lambda: write(layer("FULLY_CONNECTED", 2), {"w": "int2"}), "refused"),
    "int16 prelu": (lambda: write(random_graph("PRELU", "int16", 0)), "refused"),
    "int8 to int16": (lambda: write(requantization()), "refused"),
    "16-bit dense of images": (lambda: write(dense_of_rank_3()), "garbage"),
    "16-bit dense of vectors": (lambda: write(layer("FULLY_CONNECTED", 8, dtype="int16")), None),
}


def requantization():
    graphs = (random_graph("QUANTIZE", "int8", seed) for seed in range(20))
    return next(graph for graph in graphs if graph.tensors["y"].dtype == "int16")


def dense_of_rank_3():
    graphs = (fully_connected(Draw(seed, "int16")) for seed in range(20))
    return next(
        graph
        for graph in graphs
        if len(graph.tensors["x"].shape) == 3 and graph.tensors["w"].quantization.per_channel
    )


@pytest.mark.parametrize("name", FILES)
def test_the_static_rule_knows_the_old_runtime(name):
    build, expected = FILES[name]
    found = obstacles(parse(build()))
    assert bool(found) == bool(expected)
    if expected:
        assert expected in found[0]


@pytest.mark.parametrize("name", FILES)
def test_the_static_rule_agrees_with_the_old_runtime(name):
    if not os.environ.get(TFLITE_RUNTIME_PYTHON):
        pytest.skip(f"set {TFLITE_RUNTIME_PYTHON} to a Python that has tflite-runtime 2.14")
    build, expected = FILES[name]
    content = build()
    stored = parse(content)
    inputs = [np.zeros(stored.tensors[i].shape, stored.tensors[i].type) for i in stored.inputs]
    if expected and expected.startswith("refused"):
        with pytest.raises(ValueError, match="tflite-runtime refuses"):
            open_session(content, "tflite-runtime")(inputs)
    else:
        open_session(content, "tflite-runtime")(inputs)


def test_newer_versions_than_the_old_runtime_knows_are_named():
    content = write(random_graph("CONV_2D", "int8", 0))
    stored = parse(content)
    operator = stored.operators[0]
    newer = type(operator)(operator.kind, 8, operator.inputs, operator.outputs, operator.options)
    (found,) = obstacles(type(stored)(**{**vars(stored), "operators": (newer,)}))
    assert found == "CONV_2D (y): version 8, the newest it knows is 7"
