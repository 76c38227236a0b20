"""The Edge TPU's documented rules, each broken once, and its compiler's log."""

from __future__ import annotations

import dataclasses
import stat

import numpy as np
import pytest

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import random_graph
from tests.tflite_export.weighted_layers import convolution, layer
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.targets import capabilities, coral, edgetpu_compiler


def found(graph: IntegerGraph) -> list[str]:
    return [finding.rule for finding in coral.findings(parse(write(graph)))]


def one_input(kind, shape, output, attributes=None, constants=()):
    source = one.activation("x", shape, "int8", 0.1, 3)
    made = one.activation("y", output, "int8", 0.1, 3)
    return one.graph_of(kind, [source, *constants], made, attributes)


def dilated() -> IntegerGraph:
    graph = convolution(8)
    attributes = {**graph.operators[0].attributes, "dilation_h": 2}
    operator = dataclasses.replace(graph.operators[0], attributes=attributes)
    return dataclasses.replace(graph, operators=(operator,))


def slopes(shape: tuple[int, ...]) -> Tensor:
    return Tensor("a", shape, "int8", one.quantization(0.01), np.ones(shape, np.int8))


def joined_to(value: int) -> IntegerGraph:
    data = np.full((1, 2, 3, 4), value, np.int8)
    constant = Tensor("c", data.shape, "int8", one.quantization(0.1, 3), data)
    return one_input("CONCATENATION", (1, 2, 3, 4), (1, 2, 3, 8), {"axis": 3}, [constant])


def mean(axes: tuple[int, ...], depth: int) -> IntegerGraph:
    shape = (1, 4, 5, depth)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return one_input("MEAN", shape, kept, {"axes": axes, "keep_dims": True})


BROKEN = {
    "dilations 2 and 1 differ": dilated,
    "is not one-dimensional": lambda: one_input("SOFTMAX", (1, 3, 4), (1, 3, 4)),
    "16001 elements, allowed are 16000": lambda: one_input("SOFTMAX", (1, 16001), (1, 16001)),
    "reduces a depth of 6": lambda: mean((3,), 6),
    "vary beyond the innermost": lambda: one_input(
        "PRELU", (1, 4, 5, 6), (1, 4, 5, 6), None, [slopes((4, 1, 6))]
    ),
    "has a constant input": lambda: joined_to(4),
    "is not in the list": lambda: random_graph("LEAKY_RELU", "int8", 0),
    "is int16, need int8 or uint8": lambda: random_graph("ADD", "int16", 0),
    "beyond its three innermost": lambda: one_input(
        "TRANSPOSE", (1, 2, 3, 4, 5), (1, 2, 3, 5, 4), {"permutation": (0, 1, 2, 4, 3)}
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rules_are_found_with_their_source(rule):
    findings = coral.findings(parse(write(BROKEN[rule]())))
    assert any(rule in finding.rule for finding in findings)
    for finding in findings:
        assert finding.source.startswith("https://coral.ai/docs/edgetpu/models-intro/#")
        assert finding.advice


KEPT = {
    "convolution": lambda: convolution(8),
    "dense": lambda: layer("FULLY_CONNECTED", 8),
    "mean over the image": lambda: mean((1, 2), 6),
    "mean over a depth of 8": lambda: mean((3,), 8),
    "slopes of channels": lambda: one_input(
        "PRELU", (1, 4, 5, 6), (1, 4, 5, 6), None, [slopes((1, 1, 6))]
    ),
    "zeros joined": lambda: joined_to(3),
    "softmax": lambda: one_input("SOFTMAX", (1, 12), (1, 12)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_documented_as_supported_has_no_findings(name):
    assert found(KEPT[name]()) == []


def test_export_reports_what_stays_on_the_cpu(tmp_path):
    path = tmp_path / "m.tflite"
    (finding,) = tflite_export.export(mean((3,), 6), path, target="coral").findings
    assert "reduces a depth of 6" in finding.rule
    assert finding.source.startswith("https://coral.ai/")
    assert tflite_export.export(mean((3,), 8), path, target="coral").findings == ()


def test_packed_weights_are_refused():
    content = write(convolution(4), {"w": "int4"})
    (finding,) = coral.findings(parse(content))
    assert finding.rule == "the weights are int4, need int8"


def test_the_table_and_the_rules_name_the_same_operators():
    table = capabilities("coral")
    kinds = {row.kind for row in table.weights} | set(table.operators)
    assert kinds <= set(coral.rules())
    assert not set(table.excluded) & set(coral.rules())


@pytest.mark.parametrize("name", ["ic", "kws", "vww", "sww", "ad"])
def test_benchmark_files_of_8_bits_have_no_known_blocker(assets, name):
    result = tflite_export.check(assets / "mlperf_tiny" / f"{name}_int8.tflite", target="coral")
    assert result.findings == ()


def test_float_files_have(assets):
    result = tflite_export.check(assets / "mlperf_tiny" / "ic_float.tflite", target="coral")
    assert not result.ok
    assert "float32" in result.findings[0].rule


LOG = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 3438 ms.

On-chip memory used for caching model parameters: 6.89MiB
On-chip memory remaining for caching model parameters: 1.00KiB
Off-chip memory used for streaming uncached model parameters: 175.00KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 13
Number of operations that will run on Edge TPU: 11
Number of operations that will run on CPU: 2

Operator                       Count      Status

CONV_2D                        8          Mapped to Edge TPU
MAX_POOL_2D                    3          Mapped to Edge TPU
LOGISTIC                       1          More than one subgraph is not supported
QUANTIZE                       1          Operation is otherwise supported, but not mapped due to \
some unspecified limitation
"""


def test_the_compilers_log_is_read():
    report = edgetpu_compiler.parse_log(LOG)
    assert (report.version, report.operators_on_tpu, report.operators_on_cpu) == (
        "16.0.384591198",
        11,
        2,
    )
    assert report.cached_bytes == round(6.89 * 2**20)
    assert report.streamed_bytes == 175 * 1024
    assert [finding.operator for finding in report.unmapped] == ["LOGISTIC", "QUANTIZE"]
    assert "unspecified limitation" in report.unmapped[1].rule
    assert report.unmapped[0].source == "edgetpu_compiler 16.0.384591198"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Installs a program that prints a text and ends with a code."""

    def install(text: str, code: int) -> None:
        (tmp_path / "log").write_text(text)
        program = tmp_path / edgetpu_compiler.PROGRAM
        program.write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/log\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_an_installed_compiler_takes_part_in_the_check(tmp_path, compiler):
    path = tmp_path / "m.tflite"
    path.write_bytes(write(convolution(8)))
    assert tflite_export.check(path, target="coral").compiler is None
    compiler(LOG, 0)
    result = tflite_export.check(path, target="coral")
    assert not result.ok
    assert result.compiler.operators_on_tpu == 11
    assert [finding.operator for finding in result.findings] == ["LOGISTIC", "QUANTIZE"]
    assert tflite_export.check(path, target="android").compiler is None


def test_a_compiler_that_fails_is_a_finding(tmp_path, compiler):
    path = tmp_path / "m.tflite"
    path.write_bytes(write(convolution(8)))
    compiler("Internal compiler error. Aborting!", 1)
    (finding,) = tflite_export.check(path, target="coral").findings
    assert "Internal compiler error" in finding.rule
