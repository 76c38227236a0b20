"""Softmax, and flat inputs in general: no input of a file ends a runtime of its target."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tflite_export
from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, random_graph
from tflite_export import targets
from tflite_export.file.writer import write
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import is_weighted, tolerance
from tflite_export.graph.structure import SHARES, IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.operators.softmax import SOFTMAX
from tflite_export.runtimes import reference
from tflite_export.runtimes.input_ranges import input_ranges
from tflite_export.runtimes.sessions import RUNTIMES, open_session
from tflite_export.targets.left_out import beside
from tflite_export.targets.wide_softmax import doomed, executable

INSTALLED = [
    name for name in ("litert", "litert-reference", "tflm") if not RUNTIMES[name].missing()
]
PARAMETERS = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}


def softmax(values: int, *, scale: float = 0.05, dtype: str = "int8") -> IntegerGraph:
    source = one.activation("x", (1, values), dtype, scale)
    return one.graph_of(
        "SOFTMAX", [source], one.activation("y", (1, values), dtype, *PARAMETERS[dtype])
    )


def shares(codes: np.ndarray, scale: float) -> np.ndarray:
    """Softmax in float64."""
    logits = codes.astype(np.float64) * scale
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def samples(values: int, kind: str, seed: int = 0) -> np.ndarray:
    """int8 codes of logits: all equal, all but some, or spread."""
    generator = np.random.default_rng(seed)
    codes = np.full((2, values), generator.integers(-128, 128), np.int8)
    if kind == "peaks":
        codes[:, generator.integers(values, size=3)] = [127, -128, 0]
    if kind == "spread":
        codes = generator.integers(-128, 128, codes.shape).astype(np.int8)
    return codes


@settings(max_examples=60)
@given(
    values=st.integers(1, 1200),
    exponent=st.floats(-24, 5),
    kind=st.sampled_from(["equal", "peaks", "spread"]),
    target=st.sampled_from(["android", "ethos-u", "microcontroller"]),
    seed=st.integers(0, 10**6),
)
def test_no_logits_end_a_runtime(values, exponent, kind, target, seed):
    graph = validated(executable(softmax(values, scale=2.0**exponent), target))
    codes = samples(values, kind, seed)
    expected = np.minimum(256 * shares(codes, 2.0**exponent), 255)
    # Rounded at most twice, and each exponential of the reference kernels to 2^-19.
    allowed = 1.01 + 256 * values * 2.0**-20
    for runtime in targets.capabilities(target).runtimes:
        assert not doomed(graph, runtime)
        if runtime in INSTALLED:
            (found,) = open_session(write(graph), runtime)([codes])
            assert np.abs(found + 128.0 - expected).max() <= allowed, runtime


@pytest.mark.parametrize("runtime", [name for name in INSTALLED if name != "litert"])
def test_the_limit_is_where_kernels_abort(runtime):
    limit = SOFTMAX.most_values["int8", "int8"]
    flat = np.zeros((1, limit + 1), np.int8)
    assert open_session(write(softmax(limit)), runtime)([flat[:, 1:]])[0].max() == -127
    assert [op.kind for op in doomed(softmax(limit + 1), runtime)] == ["SOFTMAX"]
    with pytest.raises(ValueError, match="SIGABRT"):
        open_session(write(softmax(limit + 1)), runtime)([flat])


def test_litert_takes_any_number():
    graph = softmax(5000)
    assert doomed(graph, "litert") == ()
    assert open_session(write(graph), "litert")([np.zeros((1, 5000), np.int8)])[0].max() == -128


@pytest.mark.parametrize("values", [SOFTMAX.most_values["int16", "int16"], 3])
def test_int16_kernels_hold_their_sums(values):
    flat = np.zeros((1, values), np.int16)
    for runtime in INSTALLED:
        (found,) = open_session(write(softmax(values, dtype="int16")), runtime)([flat])
        assert np.abs(found - 32768 / values).max() <= 1


def test_16_bit_results_hold_the_sums_up_to_their_limit():
    """One more integer bit in the sum and equal inputs get all of it, each."""
    limit = SOFTMAX.most_values["int8", "int16"]

    def largest(values: int, runtime: str) -> int:
        graph = softmax(values)
        made = dataclasses.replace(graph.tensors["y"], dtype="int16", quantization=SHARES, bits=16)
        graph = validated(dataclasses.replace(graph, tensors={**graph.tensors, "y": made}))
        flat = np.zeros((1, values), np.int8)
        return int(open_session(write(graph), runtime)([flat])[0].max()) + 2**15

    for runtime in INSTALLED:
        assert abs(largest(limit, runtime) - 2**16 / limit) <= 1
        if runtime != "litert":
            assert largest(2 * (limit + 1) + 1, runtime) == 2**16 - 1


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_scales_are_right_within_their_bounds_and_fail_beyond(dtype):
    low, high = SOFTMAX.input_scales[dtype].low, SOFTMAX.input_scales[dtype].high
    extremes = np.iinfo(dtype)
    codes = np.array([[extremes.min, 0, 0, extremes.max], [0, 0, 0, 0]], dtype)
    unit = PARAMETERS[dtype][0]

    def error(scale: float, runtime: str) -> float:
        graph = softmax(4, scale=scale, dtype=dtype)
        try:
            (found,) = open_session(write(graph), runtime)([codes])
        except ValueError:
            return np.inf
        expected = np.minimum(shares(codes, scale) / unit, extremes.max + 128 * (dtype == "int8"))
        zero_point = graph.tensors["y"].quantization.zero_point
        return float(np.abs(found.astype(np.float64) - zero_point - expected).max())

    for runtime in INSTALLED:
        assert error(low, runtime) <= 40 * (dtype == "int16") + 0.5
        assert error(min(high, 2.0**60), runtime) <= 40 * (dtype == "int16") + 0.5
    if dtype == "int16":
        assert error(4 * high, "litert-reference") > 1000


def test_scales_too_fine_for_kernels_abort():
    graph = softmax(4, scale=0.05)
    fine = dataclasses.replace(graph.tensors["x"], quantization=one.quantization(2.0**-27))
    content = write(dataclasses.replace(graph, tensors={**graph.tensors, "x": fine}))
    with pytest.raises(ValueError, match="SIGABRT"):
        open_session(content, "litert-reference")([np.zeros((1, 4), np.int8)])


def attention() -> IntegerGraph:
    """Two products of the input, one through a softmax over 600 keys."""
    shape = (1, 2, 600)
    tensors = {
        "x": one.activation("x", shape, "int8", 0.02),
        "s": one.activation("s", shape, "int8", *PARAMETERS["int8"]),
        "y": one.activation("y", shape, "int8", 0.001),
        "z": one.activation("z", shape, "int8", 0.03),
    }
    operators = (
        Operator("SOFTMAX", ("x",), ("s",), "weights"),
        Operator("MUL", ("s", "x"), ("y",), "weighted", {"activation": "NONE"}),
        Operator("ADD", ("x", "x"), ("z",), "twice", {"activation": "NONE"}),
    )
    graph = IntegerGraph("attention", tensors, operators, (("x", "x"),), (("y", "y"), ("z", "z")))
    return validated(graph)


@pytest.mark.parametrize("target", ["android", "ethos-u", "microcontroller"])
def test_a_softmax_inside_a_network_gets_results_of_16_bits(tmp_path, target):
    result = tflite_export.export(attention(), tmp_path / "m.tflite", target=target)
    kinds = [(layer.name, layer.kind) for layer in result.layers]
    assert kinds[:2] == [("weights", kind) for kind in ("SOFTMAX", "QUANTIZE")]
    assert all(report.left_out == () for report in result.verification.runtimes)
    flat = np.zeros((1, 2, 600), np.int8)
    for runtime in INSTALLED:
        outputs = tflite_export.run(tmp_path / "m.tflite", flat, runtime=runtime)
        assert [array.dtype for array in outputs] == [np.int8, np.int8]


def test_where_only_int8_exists_one_runtime_proves_it_and_the_other_all_else(tmp_path):
    result = tflite_export.export(attention(), tmp_path / "m.tflite", target="coral")
    by_runtime = {report.runtime: report for report in result.verification.runtimes}
    assert by_runtime["litert-reference"].left_out == ("weights",)
    assert [d.kind for d in by_runtime["litert-reference"].operators] == ["MUL", "ADD"]
    assert [d.kind for d in by_runtime["litert"].operators] == ["SOFTMAX", "MUL", "ADD"]
    assert "without weights" in result.verification.summary()


def test_what_an_operator_writes_is_an_input_where_it_is_left_out():
    graph = attention()
    kept = validated(beside(graph, [graph.operators[0]]))
    assert [operator.kind for operator in kept.operators] == ["MUL", "ADD"]
    assert kept.inputs == (("x", "x"), ("s", "s"))
    assert kept.outputs == graph.outputs
    lost = validated(beside(graph, graph.operators[:2]))
    assert set(lost.tensors) == {"x", "z"}
    assert (lost.inputs, lost.outputs) == ((("x", "x"),), (("z", "z"),))
    assert beside(graph, []).operators == graph.operators


def test_sums_that_no_kernel_holds_are_refused_by_layer(tmp_path):
    values = SOFTMAX.most_values["int8", "int16"] + 1
    with pytest.raises(ValueError, match=r"layer 'layer': SOFTMAX over 4096 .* return the logits"):
        tflite_export.export(softmax(values), tmp_path / "m.tflite", target="microcontroller")
    values = SOFTMAX.most_values["int16", "int16"] + 1
    with pytest.raises(ValueError, match="allowed are 65538: return the logits"):
        executable(softmax(values, dtype="int16"), "android")
    # LiteRT's own kernel takes any number of int8.
    assert executable(softmax(values), "android").operators == softmax(values).operators


def test_16_bit_results_are_for_quantize_alone():
    shares = dataclasses.replace(one.activation("x", (1, 6), "int16", 1.0), quantization=SHARES)
    output = dataclasses.replace(shares, name="y", shape=(1, 2, 3))
    with pytest.raises(ValueError, match=r"RESHAPE .* is what a SOFTMAX of int8 writes"):
        one.graph_of("RESHAPE", [shares], output, {"new_shape": (1, 2, 3)})
    made = one.activation("y", (1, 6), "int8", 0.1)
    assert one.graph_of("QUANTIZE", [shares], made).operators


def test_check_knows_files_of_others_that_end_tflm(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(write(softmax(600)))
    (finding,) = tflite_export.check(path, target="microcontroller").findings
    assert "ends the program" in finding.rule
    assert tflite_export.check(path, target="android").ok


def executes(runtime: str, kind: str, dtype: str) -> bool:
    """Whether the runtime's target allows the operator, at any scales and with 8-bit weights."""
    target = "microcontroller" if runtime == "tflm" else "android"
    weighted = is_weighted(kind)
    return not targets.check_operator(
        target,
        kind,
        activation_dtype=dtype,
        container="int8" if weighted else None,
        per_channel=weighted,
        rescales=True,
    )


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(BUILDERS)),
    dtype=st.sampled_from(["int8", "int16"]),
    seed=st.integers(0, 10**6),
    code=st.integers(-(2**15), 2**15 - 1),
)
def test_flat_inputs_are_inputs_like_others(kind, dtype, seed, code):
    """Of all operators, for data-dependent checks of kernels that random inputs never meet."""
    graph = random_graph(kind, dtype, seed)
    flat = []
    for (_, name), ends in zip(graph.inputs, input_ranges(graph), strict=True):
        values = np.clip(code if dtype == "int16" else code >> 8, *ends)
        flat.append(values.astype(graph.tensors[name].dtype))
    expected = reference.run(graph, flat)[graph.outputs[0][1]].astype(np.int64)
    for runtime in INSTALLED:
        if not executes(runtime, kind, dtype) or not one.executes(runtime, graph):
            continue
        found = open_session(write(graph), runtime)(flat)[0]
        allowed = tolerance(runtime, Case.of(graph.operators[0], graph.tensors))
        assert np.abs(found - expected).max() <= allowed, runtime
