"""The capability tables against the runtimes: one-operator files for every row.

Allowed rows must equal the integer reference within `tolerances`; forbidden rows must fail as
recorded. tflite-runtime takes part where TFLITE_RUNTIME_PYTHON names a Python that has it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, WEIGHTED, Draw
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.file.writer import write
from tflite_export.graph.case import Case
from tflite_export.graph.kinds import ANY_RUNTIME, kind_of, known, tolerance
from tflite_export.graph.structure import IntegerGraph
from tflite_export.runtimes import reference
from tflite_export.runtimes.sessions import RUNTIMES, TFLITE_RUNTIME_PYTHON, open_session
from tflite_export.targets import TARGETS, capabilities, check_operator
from tflite_export.targets.__main__ import matrix
from tflite_export.targets.capabilities import GRANULARITIES
from tflite_export.targets.forbidden import ForbiddenRow, forbidden, forbidden_rows

OLD = "tflite-runtime"
SEEDS = {OLD: 3}
SEEDS_ELSEWHERE = 8
#: (runtime, kind, activations, container, granularity); the last two None without weights.
Row = tuple[str, str, str, str | None, str | None]


def graphs(row: Row, output: str | None = None) -> Iterator[IntegerGraph]:
    """Random files of a row."""
    runtime, kind, dtype, container, granularity = row
    for seed in range(200):
        if container and granularity:
            per_channel = granularity == "per_channel"
            graph = WEIGHTED[kind](Draw(seed, dtype), CONTAINER_BITS[container], per_channel)
            # With one channel there is nothing per channel.
            if graph.tensors["w"].quantization.per_channel == per_channel:
                yield graph
            continue
        graph = BUILDERS[kind](Draw(seed, dtype))
        if output is None or graph.tensors["y"].dtype == output:
            yield with_equal_parameters(graph) if must_not_rescale(runtime, kind) else graph


def must_not_rescale(runtime: str, kind: str) -> bool:
    return runtime == "tflm" and kind in capabilities("microcontroller").same_parameters


def with_equal_parameters(graph: IntegerGraph) -> IntegerGraph:
    given, made = graph.tensors["x"], graph.tensors["y"]
    equal = dataclasses.replace(made, quantization=given.quantization)
    return dataclasses.replace(graph, tensors={**graph.tensors, "y": equal})


def difference(graph: IntegerGraph, runtime: str, container: str | None) -> int:
    samples = one.random_samples(graph, count=6)
    content = write(graph, {"w": container} if container else None)
    found = open_session(content, runtime)(samples)[0].astype(np.int64)
    return int(np.abs(found - reference.run(graph, samples)["y"]).max())


def skip_if_missing(runtime: str) -> None:
    if runtime == OLD and not os.environ.get(TFLITE_RUNTIME_PYTHON):
        pytest.skip(f"set {TFLITE_RUNTIME_PYTHON} to a Python that has tflite-runtime 2.14")
    if reason := RUNTIMES[runtime].missing():
        pytest.skip(f"{runtime}: {reason}")


def allowed_rows() -> list[Row]:
    rows: set[Row] = set()
    for target in TARGETS:
        table = capabilities(target)
        runtimes = (*table.runtimes, OLD) if target == "android" else table.runtimes
        for runtime in runtimes:
            rows |= {
                (runtime, r.kind, r.activations, r.container, r.granularity) for r in table.weights
            }
            rows |= {
                (runtime, kind, dtype, None, None)
                for kind, dtypes in table.operators.items()
                for dtype in dtypes
            }
    return sorted((row for row in rows if not always_fails(row)), key=str)


def always_fails(row: Row) -> bool:
    found = row_of(row)
    return found is not None and not found.rank_above


def row_of(row: Row, output: str | None = None, rank: int = 4) -> ForbiddenRow | None:
    runtime, kind, dtype, container, granularity = row
    return forbidden(
        runtime,
        kind,
        activation_dtype=dtype,
        container=container,
        per_channel=granularity == "per_channel",
        output_dtype=output or dtype,
        input_rank=rank,
    )


def named(row: Row) -> str:
    return "-".join(part for part in row if part)


@pytest.mark.parametrize("row", allowed_rows(), ids=named)
def test_allowed_rows_are_right(row):
    runtime, container = row[0], row[3]
    skip_if_missing(runtime)
    tested = 0
    for graph in graphs(row):
        output = graph.tensors["y"].dtype
        if row_of(row, output, len(graph.tensors[graph.inputs[0][1]].shape)):
            continue
        assert difference(graph, runtime, container) <= allowance(runtime, graph)
        tested += 1
        if tested == SEEDS.get(runtime, SEEDS_ELSEWHERE):
            break
    assert tested == SEEDS.get(runtime, SEEDS_ELSEWHERE)


def allowance(runtime: str, graph: IntegerGraph) -> int:
    """The old runtime proves no export, so its differences are bounded here only."""
    return 1 if runtime == OLD else tolerance(runtime, Case.of(graph.operators[0], graph.tensors))


@pytest.mark.parametrize(
    "row", forbidden_rows(), ids=lambda r: f"{r.runtime}-{r.kind}-{r.activations}-{r.container}"
)
def test_forbidden_rows_fail_as_recorded(row):
    skip_if_missing(row.runtime)
    key = (row.runtime, row.kind, row.activations, row.container, row.granularity)
    graph = next(
        graph
        for graph in graphs(key, row.output)
        if len(graph.tensors[graph.inputs[0][1]].shape) > row.rank_above
    )
    if row.outcome == "refused":
        with pytest.raises((ValueError, RuntimeError)):
            difference(graph, row.runtime, row.container)
    else:
        assert row.outcome == "garbage"
        assert difference(graph, row.runtime, row.container) > 100


def combinations() -> Iterator[tuple[str, str, str | None, str | None]]:
    for kind in known():
        for dtype in ("int8", "int16"):
            if kind not in WEIGHTED:
                yield kind, dtype, None, None
                continue
            for container in ("int8", "int4", "int2"):
                yield from ((kind, dtype, container, each) for each in GRANULARITIES)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_refuses_has_evidence(target):
    """Nothing is refused by habit: a runtime fails, or the table quotes the vendor or its tool."""
    table = capabilities(target)
    for kind, dtype, container, granularity in combinations():
        refusal = check_operator(
            target,
            kind,
            activation_dtype=dtype,
            container=container,
            per_channel=granularity == "per_channel",
        )
        if refusal is None:
            continue
        documented = any(key in table.excluded for key in (kind, dtype, container))
        measured = any(
            row_of((runtime, kind, dtype, container, granularity)) for runtime in table.runtimes
        )
        assert documented or measured, (target, kind, dtype, container, granularity)


@pytest.mark.parametrize("target", TARGETS)
def test_the_runtime_that_a_target_deploys_executes_all_that_it_allows(target):
    """The last one of its table; what others fail at is left out there."""
    table = capabilities(target)
    weightless = {
        (kind, dtype, None, None) for kind, dtypes in table.operators.items() for dtype in dtypes
    }
    weighted = {(r.kind, r.activations, r.container, r.granularity) for r in table.weights}
    failing = {key for key in weightless | weighted if always_fails((table.runtimes[-1], *key))}
    assert {kind for kind, *_ in failing} == set(table.compiled)


def test_tolerances_are_small_explained_and_about_known_operators():
    for kind in known():
        for (runtime, dtype), allowed in kind_of(kind).tolerances.items():
            assert runtime in (*RUNTIMES, ANY_RUNTIME)
            assert allowed.lsb <= (12 if dtype == "int16" else 3)
            assert allowed.lsb or allowed.drift
            assert allowed.reason


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH"])
def test_16_bit_curves_differ_at_power_of_two_scales_only(kind):
    """Why their tolerance is large, and when it is used."""
    every = np.arange(-(2**15), 2**15).astype(np.int16)[None]
    largest = []
    for scale in (2.0**-12, 2.0**-12 * 1.1):
        source = one.activation("x", every.shape, "int16", scale)
        output = one.activation("y", every.shape, "int16", 1 / 32768)
        graph = one.graph_of(kind, [source], output)
        found = one.in_runtime(graph, [every], runtime="litert").astype(np.int64)
        largest.append(np.abs(found - reference.run(graph, [every])["y"]).max())
    assert 1 < largest[0] <= tolerance("litert", Case.of(graph.operators[0], graph.tensors))
    assert largest[1] == 0


@pytest.mark.parametrize("scale", [0.0077, 0.05])
def test_8_bit_shares_differ_by_one_and_rarely(scale):
    """An export of a sound file was refused: 20 shares, one of them a tie."""
    source = one.activation("x", (1, 5), "int8", scale, -32)
    graph = one.graph_of("SOFTMAX", [source], one.activation("y", (1, 5), "int8", 1 / 256, -128))
    logits = np.random.default_rng(0).integers(-128, 128, (200_000, 5)).astype(np.int8)
    logits[0] = [-94, 115, 127, -33, -128]
    expected = reference.run(graph, [logits])["y"]
    for runtime in ("litert", "litert-reference"):
        found = one.in_runtime(graph, [logits], runtime=runtime).astype(np.int64)
        apart = np.abs(found - expected)
        assert apart.max() <= tolerance(runtime, Case.of(graph.operators[0], graph.tensors))
        assert np.mean(apart > 0) < 1e-4
        assert tolerance(runtime, Case.of(graph.operators[0], graph.tensors)) == (
            runtime == "litert"
        )


def test_16_bit_additions_differ_by_one_and_rarely():
    """Eight random files did not show it; a residual network of 16-bit sums did."""
    differing = []
    for seed in (17, 22, 23, 24):
        graph = BUILDERS["ADD"](Draw(seed, "int16"))
        samples = one.random_samples(graph, count=60, seed=seed)
        found = one.in_runtime(graph, samples, runtime="litert").astype(np.int64)
        apart = np.abs(found - reference.run(graph, samples)["y"])
        assert apart.max() <= tolerance("litert", Case.of(graph.operators[0], graph.tensors)) == 1
        differing.append(np.mean(apart > 0))
    assert np.mean(differing) < 1e-3


@pytest.mark.parametrize("half_pixel", [True, False])
def test_resized_images_drift_no_further_than_litert_rounds_coordinates(half_pixel):
    """Checkerboards of the largest contrast: the drift reaches 10 LSB, the tolerance follows."""
    generator = np.random.default_rng(0)
    largest = 0
    for _ in range(60):
        height, width, channels = generator.integers(2, 12, 3)
        size = tuple(int(each) for each in generator.integers(1, 65, 2))
        source = one.activation("x", (1, height, width, channels), "int8", 0.1)
        output = one.activation("y", (1, *size, channels), "int8", 0.1)
        attributes = {"size": size, "align_corners": False, "half_pixel_centers": half_pixel}
        graph = one.graph_of("RESIZE_BILINEAR", [source], output, attributes)
        samples = [generator.choice(np.array([-128, 127], np.int8), (4, *source.shape[1:]))]
        found = one.in_runtime(graph, samples, runtime="litert").astype(np.int64)
        apart = int(np.abs(found - reference.run(graph, samples)["y"]).max())
        assert apart <= tolerance("litert", Case.of(graph.operators[0], graph.tensors))
        largest = max(largest, apart)
    assert largest > 3


@pytest.mark.parametrize(("size", "outputs"), [(2, 82), (6, 74), (3, 41)])
def test_kernels_choose_other_pixels_where_float32_is_just_below_an_integer(size, outputs):
    """An export with this size was refused: LiteRT's two kernels disagree about one pixel."""
    pixels = np.arange(size, dtype=np.int8).reshape(1, size, 1, 1) * 40
    source = one.activation("x", pixels.shape, "int8", 0.1)
    output = one.activation("y", (1, outputs, 1, 1), "int8", 0.1)
    corners = {"align_corners": False, "half_pixel_centers": False}
    graph = one.graph_of(
        "RESIZE_NEAREST_NEIGHBOR", [source], output, {"size": (outputs, 1), **corners}
    )
    expected = reference.run(graph, [pixels])["y"]
    exact = one.in_runtime(graph, [pixels])
    np.testing.assert_array_equal(exact, expected)
    other = one.in_runtime(graph, [pixels], runtime="litert")
    assert (other != exact).any() == bool(allowance("litert", graph)) == (outputs != 41)


def test_the_matrix_shows_rows_evidence_and_exclusions():
    text = matrix()
    assert "| CONV_2D | int8 | int4 | 3 | yes | no | no | yes |" in text
    assert "| FULLY_CONNECTED | int8 | int4 | 4 | yes | no | no | per tensor |" in text
    assert "garbage" in text
    assert "SIGFPE" in text


def test_the_documentation_shows_the_matrix():
    page = Path(__file__).parents[3] / "docs" / "targets" / "operators.md"
    assert page.read_text("utf-8") == matrix() + "\n", (
        "python -m tflite_export.targets > docs/targets/operators.md"
    )
