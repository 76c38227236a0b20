"""What runtimes refuse, compute wrongly or do not survive, and what we do about it."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import Draw, random_graph
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference
from tflite_export.targets.containers import plan_storage

SHAPE = (1, 3, 4, 5)
HAS_TFLM = importlib.util.find_spec("tflite_micro") is not None
RUNTIMES = ("litert-reference", "litert", *(("tflm",) if HAS_TFLM else ()))


def difference(graph: IntegerGraph, runtime: str) -> int:
    samples = one.random_samples(graph, count=20)
    found = one.in_runtime(graph, samples, runtime=runtime).astype(np.int64)
    return int(np.abs(found - reference.run(graph, samples)["y"]).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["ADD", "SUB"])
def test_int16_sums_of_power_of_two_scales_are_not_special(kind, runtime):
    """The schema's default asks for kernels that add powers of two only, and refuse these."""
    inputs = [one.activation(name, SHAPE, "int16", s) for name, s in (("x", 2**-10), ("z", 2**-11))]
    output = one.activation("y", SHAPE, "int16", 2**-9)
    graph = one.graph_of(kind, inputs, output, {"activation": "NONE"})
    assert difference(graph, runtime) == 0


def relu6(dtype: str, scale: float, output_scale: float) -> IntegerGraph:
    source = one.activation("x", SHAPE, dtype, scale, 3)
    return one.graph_of("RELU6", [source], one.activation("y", SHAPE, dtype, output_scale, 3))


@pytest.mark.parametrize("target", ["microcontroller", "ethos-u"])
def test_relu6_that_rescales_is_refused_where_tflm_runs_it(tmp_path, target):
    assert plan_storage(relu6("int8", 0.05, 0.05), target) == {}
    with pytest.raises(ValueError, match=r"layer 'layer': RELU6 .* different scales"):
        plan_storage(relu6("int8", 0.05, 0.04), target)
    path = tmp_path / "m.tflite"
    path.write_bytes(write(relu6("int8", 0.05, 0.04)))
    (finding,) = tflite_export.check(path, target=target).findings
    assert "different scales" in finding.rule
    assert tflite_export.check(path, target="android").ok


@pytest.mark.skipif(not HAS_TFLM, reason="tflite-micro is not installed")
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_the_refusal_of_relu6_is_justified(dtype):
    scale = 0.05 if dtype == "int8" else 0.0005
    assert difference(relu6(dtype, scale, scale), "tflm") == 0
    assert difference(relu6(dtype, scale, scale * 0.8), "tflm") > 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_slopes_are_right_under_int16_activations(runtime):
    allowed = int(runtime == "tflm")
    assert max(difference(random_graph("PRELU", "int16", s), runtime) for s in range(9)) <= allowed


def test_int16_slopes_are_refused_and_would_be_wrong():
    graph = random_graph("PRELU", "int16", 0)
    slopes = graph.tensors["a"]
    assert slopes.data is not None
    wide = dataclasses.replace(slopes, dtype="int16", data=slopes.data.astype(np.int16), bits=16)
    wrong = dataclasses.replace(graph, tensors={**graph.tensors, "a": wide})
    with pytest.raises(ValueError, match="slopes are int16, need int8"):
        validated(wrong)
    assert difference(wrong, "litert") > 1000


def without_bias(kind: str) -> IntegerGraph:
    graph = random_graph(kind, "int8", 1)
    operator = dataclasses.replace(graph.operators[0], inputs=("x", "w"))
    tensors: dict[str, Tensor] = {n: t for n, t in graph.tensors.items() if n != "b"}
    return dataclasses.replace(graph, operators=(operator,), tensors=tensors)


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_convolutions_need_a_bias(kind):
    with pytest.raises(ValueError, match="has 2 inputs, needs 3: image, weights and bias"):
        validated(without_bias(kind))


def test_litert_refuses_convolutions_without_bias():
    with pytest.raises(ValueError, match="has_bias"):
        difference(without_bias("CONV_2D"), "litert")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_dense_layers_need_none(runtime):
    assert difference(validated(without_bias("FULLY_CONNECTED")), runtime) <= 1


def test_requantization_by_a_tied_operator_is_refused():
    """These kernels copy integers: parameters that differ would change what the integers mean."""
    draw = Draw(0, "int8")
    source = draw.activation("x", SHAPE, 0.1, 3)
    output = draw.activation("y", (1, 12, 5), 0.2, 3)
    with pytest.raises(ValueError, match="RESHAPE of layer 'layer': copies integers"):
        one.graph_of("RESHAPE", [source], output, {"new_shape": (1, 12, 5)})


def softmax(scale: float) -> IntegerGraph:
    graph = random_graph("SOFTMAX", "int8", 1)
    flat = dataclasses.replace(graph.tensors["x"], quantization=one.quantization(scale))
    return dataclasses.replace(graph, tensors={**graph.tensors, "x": flat})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_softmax_of_nearly_equal_logits(runtime):
    assert difference(validated(softmax(2.0**-26 * 1.01)), runtime) <= 1


def test_softmax_of_equal_logits_is_refused_and_would_kill(tmp_path):
    graph = softmax(2.0**-26)
    with pytest.raises(ValueError, match="the logits are the same for all samples"):
        validated(graph)
    path = tmp_path / "m.tflite"
    path.write_bytes(write(graph))
    images = np.zeros(graph.tensors["x"].shape, np.float32)
    with pytest.raises(ValueError, match="dies of the file"):
        tflite_export.run(path, images, runtime="litert-reference")
