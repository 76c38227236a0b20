"""Each target's part of the report says what its own tools say."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tfeptq.report.target_section import target_section
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.graph.validation import validated
from tflite_export.packaging import vela_report


@pytest.fixture
def file(tmp_path):
    """Writer of a 4-bit convolution and the mean over its 6 channels; takes the container."""

    def write_as(container: str):
        scale = Quantization(np.array([0.05], np.float32), 0)
        bias_scale = Quantization(scale.scale * scale.scale)
        weights = np.random.default_rng(0).integers(-7, 8, (6, 3, 2, 5)).astype(np.int8)
        tensors = {
            "x": Tensor("x", (1, 9, 7, 5), "int8", scale),
            "w": Tensor("w", weights.shape, "int8", scale, weights, 4),
            "b": Tensor("b", (6,), "int32", bias_scale, np.zeros(6, np.int32), 32),
            "c": Tensor("c", (1, 7, 6, 6), "int8", scale),
            "y": Tensor("y", (1, 7, 6, 1), "int8", scale),
        }
        window = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "activation": "NONE"}
        window |= {"dilation_h": 1, "dilation_w": 1}
        operators = (
            Operator("CONV_2D", ("x", "w", "b"), ("c",), "conv", window),
            Operator("MEAN", ("c",), ("y",), "mean", {"axes": (3,), "keep_dims": True}),
        )
        graph = IntegerGraph("test", tensors, operators, (("x", "x"),), (("y", "y"),))
        path = tmp_path / "m.tflite"
        path.write_bytes(write(validated(graph), {"w": container}))
        return path

    return write_as


def test_android_tells_delegation_latency_old_runtime_and_what_is_slower(file):
    section = target_section(file("int4"), "android")
    facts = dict(section.facts)
    assert facts["operators that XNNPACK takes"] == "1 of 2"
    assert facts["left to built-in kernels"] == "CONV_2D (c)"
    assert "ms at best" in facts["latency on one thread of this computer"]
    assert facts["tflite-runtime 2.14"] == "no known obstacle"
    assert "1 convolution with 4-bit weights: smaller" in section.remarks[0]
    assert section.findings is None


def test_coral_tells_findings_with_their_rule_and_source(file):
    section = target_section(file("int8"), "coral")
    (finding,) = section.findings
    assert finding.operator == "MEAN (y)"
    assert "a depth of 6" in finding.rule
    assert finding.source.startswith("https://coral.ai/")


@pytest.mark.skipif(importlib.util.find_spec("ethosu") is None, reason="extra 'ethos-u' is missing")
def test_ethos_u_tells_velas_figures_and_what_it_refuses(file):
    path = file("int8")
    section = target_section(path, "ethos-u")
    report = vela_report(path)
    facts = dict(section.facts)
    assert facts["flash"] == f"{report.flash_bytes:,} bytes"
    assert facts["cycles"] == f"{report.cycles:,}"
    assert section.findings == report.cpu_operators
    assert len(report.cpu_operators) == 1
    # int4 weights kill Vela: the report says so and is written all the same.
    section = target_section(file("int4"), "ethos-u")
    assert section.findings is None
    assert "Vela does not compile the file" in section.remarks[0]


@pytest.mark.parametrize(
    ("target", "extra"), [("ethos-u", "ethos-u"), ("microcontroller", "microcontroller")]
)
def test_tools_that_are_missing_are_named(file, monkeypatch, target, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    section = target_section(file("int8"), target)
    assert section.facts == []
    assert f"extra '{extra}'" in section.remarks[0]
