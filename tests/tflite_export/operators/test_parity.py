"""The integer reference against LiteRT's reference kernels and TFLM, bit for bit."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export import weighted_layers
from tests.tflite_export.random_operators import BIAS, BUILDERS, WEIGHTED, Draw, random_graph
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.graph import fixed_point
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import ANY_RUNTIME, kind_of, known, tolerance
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.runtimes import reference
from tflite_export.targets import capabilities

SEEDS = range(12)
CASES = [(k, d) for k in BUILDERS for d in ("int8", "int16") if one.exact_runtime(k, d)]
#: Operator, type, container and granularity of weights below 8 bits, by target.
NARROW = {
    target: [
        (row.kind, row.activations, row.container, row.granularity == "per_channel")
        for row in capabilities(target).weights
        if row.container != "int8"
    ]
    for target in ("android", "microcontroller")
}
needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="tflite-micro is not installed (extra 'microcontroller')",
)


def difference(
    graph: IntegerGraph,
    *,
    runtime: str = "litert-reference",
    storage: Mapping[str, str] | None = None,
) -> int:
    """Largest difference between the reference and a runtime on random samples, in LSB."""
    samples = one.random_samples(graph, count=16)
    expected = reference.run(graph, samples)[graph.outputs[0][1]]
    found = one.in_runtime(graph, samples, runtime=runtime, storage=storage)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return int(np.abs(found.astype(np.int64) - expected).max())


def test_every_operator_of_the_graph_is_covered():
    assert set(BUILDERS) == set(known())


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_operators_equal_the_reference_kernels(kind, dtype):
    for seed in SEEDS:
        graph = random_graph(kind, dtype, seed)
        case = Case.of(graph.operators[0], graph.tensors)
        runtime = str(one.exact_runtime(kind, dtype))
        assert difference(graph, runtime=runtime) <= tolerance(runtime, case)


@pytest.mark.parametrize("ratio", [0.77137, 1.31831, 1.94173])
@pytest.mark.parametrize("kind", ["RELU", "RELU6", "LEAKY_RELU", "QUANTIZE"])
def test_every_int16_is_rescaled_as_in_the_reference_kernels(kind, ratio):
    """Multipliers of the wrong precision show in few integers only."""
    every = np.arange(-(2**15), 2**15).astype(np.int16)[None]
    source = one.activation("x", every.shape, "int16", 0.00031)
    attributes = {"alpha": 0.3} if kind == "LEAKY_RELU" else {}
    output = one.activation("y", every.shape, "int16", 0.00031 * ratio)
    graph = one.graph_of(kind, [source], output, attributes)
    np.testing.assert_array_equal(
        reference.run(graph, [every])["y"], one.in_runtime(graph, [every])
    )


STEP_IN, STEP_OUT = float(np.float32(0.0437)), float(np.float32(0.0311))
#: How kernels bring sums to the output's scale; near halves they disagree.
ROUNDINGS = (fixed_point.multiply, fixed_point.multiply_wide, fixed_point.multiply_real)


def sums_near_halves(dtype: str, count: int) -> Iterator[tuple[np.float32, int]]:
    """Weight scales and biases that `ROUNDINGS` take to other integers."""
    generator = np.random.default_rng(0)
    top, scales = (120, (1e-5, 2e-5)) if dtype == "int8" else (32000, (1e-3, 2e-3))
    for _ in range(count):
        scale = np.float32(generator.uniform(*scales))
        real = STEP_IN * float(scale) / STEP_OUT
        sums = generator.integers(int(-top / real), int(top / real), 1_000_000)
        near = sums[np.abs(np.abs(sums * real) % 1 - 0.5) < 1e-5]
        found = [rounding(near, real) for rounding in ROUNDINGS]
        apart = near[(found[0] != found[2]) | (found[1] != found[2])]
        exact = fixed_point.multiply_real(near, real)
        # A fraction of 31 bits is as far from float64 as this test can see.
        fraction, exponent = fixed_point.quantize_multiplier(real)
        held = near * (float(fraction) * 2.0 ** (float(exponent) - 31))
        last = near[fixed_point.round_half_away(held) != exact]
        yield from ((scale, int(each)) for each in (*apart[:2], *last[:2]))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", sorted(WEIGHTED))
def test_sums_near_halves_are_rounded_as_the_kernels_do(kind, dtype):
    scales, biases = zip(*sums_near_halves(dtype, 12), strict=True)
    channels, scale = len(biases), np.array(scales, np.float32)
    axis = kind_of(kind).channel_axis
    kernel = [1, 1] if kind == "FULLY_CONNECTED" else [1, 1, 1, 1]
    kernel[axis] = channels
    lead = (1,) if kind == "FULLY_CONNECTED" else (1, 1, 1)
    deep = channels if kind == "DEPTHWISE_CONV_2D" else 1
    bias = np.array(biases, BIAS[dtype])
    graph = one.graph_of(
        kind,
        [
            one.activation("x", (*lead, deep), dtype, STEP_IN),
            Tensor(
                "w",
                tuple(kernel),
                "int8",
                one.quantization(scale, 0, axis),
                np.zeros(kernel, np.int8),
                8,
            ),
            Tensor(
                "b",
                bias.shape,
                BIAS[dtype],
                one.quantization(np.float32(STEP_IN) * scale),
                bias,
                8 * bias.itemsize,
            ),
        ],
        one.activation("y", (*lead, channels), dtype, STEP_OUT),
        weighted_layers.ATTRIBUTES[kind]
        | {"activation": "NONE"}
        | ({"output_shape": (*lead, channels)} if kind == "TRANSPOSE_CONV" else {}),
    )
    assert difference(graph) == 0


def test_random_cases_use_many_output_values():
    """Otherwise equality would prove little."""
    for kind, dtype in CASES:
        graphs = [random_graph(kind, dtype, seed) for seed in SEEDS]
        outputs = [
            reference.run(g, one.random_samples(g, count=16))[g.outputs[0][1]] for g in graphs
        ]
        assert sum(np.unique(output).size for output in outputs) > 10 * len(SEEDS), (kind, dtype)


@pytest.mark.parametrize(("kind", "dtype", "container", "per_channel"), NARROW["android"])
def test_narrow_containers_hold_the_same_weights(kind, dtype, container, per_channel):
    for bits in range(2, CONTAINER_BITS[container] + 1):
        for seed in SEEDS[:4]:
            graph = WEIGHTED[kind](Draw(seed, dtype), bits, per_channel)
            assert difference(graph, storage={"w": container}) == 0


@needs_tflm
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"])
def test_convolutions_equal_tflm(kind, dtype):
    assert max(difference(random_graph(kind, dtype, s), runtime="tflm") for s in SEEDS) == 0


@needs_tflm
@pytest.mark.parametrize(("kind", "dtype", "container", "per_channel"), NARROW["microcontroller"])
def test_narrow_containers_equal_tflm(kind, dtype, container, per_channel):
    graph = WEIGHTED[kind](Draw(3, dtype), CONTAINER_BITS[container], per_channel)
    allowed = tolerance("tflm", Case.of(graph.operators[0], graph.tensors))
    assert difference(graph, runtime="tflm", storage={"w": container}) <= allowed


@needs_tflm
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_tflm_rounds_dense_layers_as_convolutions(dtype):
    """LiteRT rounds them once, so one file differs by 1 LSB between the two runtimes."""
    apart = []
    for seed in SEEDS:
        graph = random_graph("FULLY_CONNECTED", dtype, seed)
        samples = one.random_samples(graph, count=100)
        found = one.in_runtime(graph, samples, runtime="tflm").astype(np.int64)
        twin = pointwise_convolution(graph)
        pixels = samples[0].reshape(-1, 1, 1, samples[0].shape[-1])
        rounded_twice = reference.run(twin, [pixels])["y"]
        np.testing.assert_array_equal(found, rounded_twice.reshape(found.shape))
        apart.append(np.abs(found - reference.run(graph, samples)["y"]).max())
    assert max(apart) == 1


def pointwise_convolution(dense: IntegerGraph) -> IntegerGraph:
    source, weights, bias, output = (dense.tensors[name] for name in "xwby")
    assert weights.data is not None
    kernel = weights.data[:, None, None, :]
    attributes = dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    attributes |= {"padding": "VALID", "activation": dense.operators[0].attributes["activation"]}
    return one.graph_of(
        "CONV_2D",
        [
            dataclasses.replace(source, shape=(1, 1, 1, source.shape[-1])),
            dataclasses.replace(weights, shape=kernel.shape, data=kernel),
            bias,
        ],
        dataclasses.replace(output, shape=(1, 1, 1, output.shape[-1])),
        attributes,
    )


@needs_tflm
@pytest.mark.parametrize(("dtype", "seeds"), [("int8", [1118]), ("int16", range(30, 60))])
def test_tflm_takes_the_quotient_of_scales_in_float64(dtype, seeds):
    """Why its results differ from LiteRT's, and that nothing else does."""
    apart = 0
    for seed in seeds:
        graph = random_graph("ABS", dtype, seed)
        samples = one.random_samples(graph, count=4, seed=seed)
        given, made = graph.tensors["x"].quantization, graph.tensors["y"].quantization
        real = np.float64(given.scale[0]) / np.float64(made.scale[0])
        values = np.abs(samples[0].astype(np.int64) - given.zero_point)
        info = np.iinfo(dtype)
        expected = np.clip(fixed_point.multiply(values, real) + made.zero_point, info.min, info.max)
        found = one.in_runtime(graph, samples, runtime="tflm")
        np.testing.assert_array_equal(found, expected)
        apart += int(np.abs(reference.run(graph, samples)["y"] - expected).sum())
    assert apart > 0


def test_tolerances_are_small_and_explained():
    given = {
        (kind, dtype): found
        for kind in known()
        for (runtime, dtype), found in kind_of(kind).tolerances.items()
        if runtime == ANY_RUNTIME
    }
    assert set(given) <= set(CASES)
    for found in given.values():
        assert found.lsb == 1
        assert "float32" in found.reason
