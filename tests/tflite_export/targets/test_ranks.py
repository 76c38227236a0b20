"""How many dimensions operators may have: right up to each limit, refused or wrong beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.runtimes import reference
from tflite_export.runtimes.sessions import RUNTIMES, open_session
from tflite_export.targets import TARGETS, capabilities
from tflite_export.targets.checks import static_findings
from tflite_export.targets.containers import plan_storage

SIZES = (1, 3, 2, 4, 2, 3, 2, 2, 2)


def concatenation(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    inputs = [one.activation(name, shape, "int8", 0.1) for name in "xz"]
    output = one.activation("y", (*shape[:-1], 2 * shape[-1]), "int8", 0.1)
    return one.graph_of("CONCATENATION", inputs, output, {"axis": rank - 1})


def transpose(rank: int) -> IntegerGraph:
    order = (0, *range(rank - 1, 0, -1))
    shape = tuple(SIZES[axis] for axis in order)
    inputs = [one.activation("x", SIZES[:rank], "int8", 0.1)]
    output = one.activation("y", shape, "int8", 0.1)
    return one.graph_of("TRANSPOSE", inputs, output, {"permutation": order})


def product(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    inputs = [one.activation("x", shape, "int8", 0.1), one.activation("z", shape, "int8", 0.07)]
    output = one.activation("y", shape, "int8", 0.2)
    return one.graph_of("MUL", inputs, output, {"activation": "NONE"})


def dense(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    kernel = (3, shape[-1])
    weights = np.random.default_rng(0).integers(-127, 128, kernel).astype(np.int8)
    unit = np.float32(0.1) * np.float32(0.01)
    inputs = [
        one.activation("x", shape, "int8", 0.1),
        Tensor("w", kernel, "int8", one.quantization(0.01), weights),
        Tensor("b", (3,), "int32", one.quantization(unit), np.zeros(3, np.int32), 32),
    ]
    output = one.activation("y", (*shape[:-1], 3), "int8", 0.2)
    attributes = {"keep_num_dims": True, "activation": "NONE"}
    return one.graph_of("FULLY_CONNECTED", inputs, output, attributes)


def matmul(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    inputs = [
        one.activation("x", shape, "int8", 0.1),
        one.activation("z", (*shape[:-2], shape[-1], 3), "int8", 0.07),
    ]
    output = one.activation("y", (*shape[:-1], 3), "int8", 0.2)
    return one.graph_of("BATCH_MATMUL", inputs, output, {"adj_x": False, "adj_y": False})


def reduction(kind: str) -> Callable[[int], IntegerGraph]:
    def build(rank: int) -> IntegerGraph:
        inputs = [one.activation("x", SIZES[:rank], "int8", 0.1)]
        output = one.activation("y", SIZES[: rank - 2], "int8", 0.1)
        attributes = {"axes": (rank - 2, rank - 1), "keep_dims": False}
        return one.graph_of(kind, inputs, output, attributes)

    return build


def crop(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    attributes = {"begin": (*(0,) * (rank - 1), 1), "size": (*shape[:-1], 1)}
    inputs = [one.activation("x", shape, "int8", 0.1)]
    output = one.activation("y", (*shape[:-1], 1), "int8", 0.1)
    return one.graph_of("SLICE", inputs, output, attributes)


def strided(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    attributes = {"begin": (0,) * rank, "end": shape, "strides": (*(1,) * (rank - 1), 2)}
    inputs = [one.activation("x", shape, "int8", 0.1)]
    output = one.activation("y", (*shape[:-1], -(-shape[-1] // 2)), "int8", 0.1)
    return one.graph_of("STRIDED_SLICE", inputs, output, attributes)


def padding(rank: int) -> IntegerGraph:
    shape = SIZES[:rank]
    inputs = [one.activation("x", shape, "int8", 0.1)]
    output = one.activation("y", (*shape[:-1], shape[-1] + 3), "int8", 0.1)
    amounts = (*((0, 0),) * (rank - 1), (1, 2))
    return one.graph_of("PAD", inputs, output, {"paddings": amounts})


def padding_with(rank: int) -> IntegerGraph:
    graph = padding(rank)
    given, made = graph.tensors["x"], graph.tensors["y"]
    value = dataclasses.replace(given, name="v", shape=(1,), data=np.array([7], np.int8))
    return one.graph_of("PADV2", [given, value], made, graph.operators[0].attributes)


BUILDERS = {
    "PAD": padding,
    "PADV2": padding_with,
    "BATCH_MATMUL": matmul,
    **{kind: reduction(kind) for kind in ("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM")},
    "SLICE": crop,
    "STRIDED_SLICE": strided,
    "CONCATENATION": concatenation,
    "FULLY_CONNECTED": dense,
    "MUL": product,
    "TRANSPOSE": transpose,
}
#: The operator that stands for those which a target's table does not name.
OTHERS = "MUL"
LIMITS = [
    (target, kind, most)
    for target in TARGETS
    for kind in BUILDERS
    if (most := capabilities(target).ranks.get("any" if kind == OTHERS else kind))
]


def is_right(graph: IntegerGraph, runtime: str) -> bool:
    """Whether a runtime takes a file and computes what the reference does."""
    samples = one.random_samples(graph)
    try:
        found = open_session(write(graph), runtime)(samples)[0]
    except ValueError:
        return False
    expected = reference.run(graph, samples)["y"]
    return bool(np.max(np.abs(found.astype(int) - np.asarray(expected).astype(int))) <= 1)


@pytest.mark.parametrize(("target", "kind", "most"), LIMITS)
def test_ranks_are_those_that_the_runtimes_execute(target, kind, most):
    runtimes = [name for name in capabilities(target).runtimes if not RUNTIMES[name].missing()]
    if len(runtimes) < len(capabilities(target).runtimes):
        pytest.skip("a runtime of the target is not installed")
    runtimes = [name for name in runtimes if one.executes(name, BUILDERS[kind](most))]
    assert all(is_right(BUILDERS[kind](most), runtime) for runtime in runtimes)
    assert not all(is_right(BUILDERS[kind](most + 1), runtime) for runtime in runtimes)


@pytest.mark.parametrize(("target", "kind", "most"), LIMITS)
def test_what_has_too_many_dimensions_is_refused_by_its_layer_and_found_in_files(
    target, kind, most
):
    assert plan_storage(BUILDERS[kind](most), target) is not None
    graph = BUILDERS[kind](most + 1)
    with pytest.raises(
        ValueError, match=f"layer 'layer': {kind} has {most + 1} dimensions.*{most}"
    ):
        plan_storage(graph, target)
    findings = static_findings(parse(write(graph)), target)
    assert any("dimensions" in finding.rule for finding in findings) or target == "coral"


def joining(count: int) -> IntegerGraph:
    inputs = [one.activation(f"x{index}", (1, 3), "int8", 0.1) for index in range(count)]
    output = one.activation("y", (1, 3 * count), "int8", 0.1)
    return one.graph_of("CONCATENATION", inputs, output, {"axis": 1})


@pytest.mark.parametrize("target", [t for t in TARGETS if capabilities(t).most_inputs])
def test_no_more_tensors_are_joined_than_the_runtimes_take(target):
    most = capabilities(target).most_inputs["CONCATENATION"]
    if any(RUNTIMES[name].missing() for name in capabilities(target).runtimes):
        pytest.skip("a runtime of the target is not installed")
    assert all(is_right(joining(most), name) for name in capabilities(target).runtimes)
    assert not all(is_right(joining(most + 1), name) for name in capabilities(target).runtimes)
    plan_storage(joining(most), target)
    with pytest.raises(ValueError, match=f"layer 'layer': CONCATENATION reads {most + 1} tensors"):
        plan_storage(joining(most + 1), target)
    rules = [found.rule for found in static_findings(parse(write(joining(most + 1))), target)]
    assert any(f"reads {most + 1} tensors" in rule for rule in rules)
