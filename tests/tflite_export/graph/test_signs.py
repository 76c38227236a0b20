"""What is said to hold no negative number holds none, in the reference and in the runtimes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tflite_export import one_operator as one
from tests.tflite_export.random_operators import BUILDERS, Draw
from tflite_export.file.writer import write
from tflite_export.graph.kinds import kind_of
from tflite_export.graph.signs import is_positive
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference
from tflite_export.runtimes.sessions import RUNTIMES, open_session

KEEPING = [kind for kind in BUILDERS if kind_of(kind).keeps_sign]
#: Those that execute int16; both keep their sums in another order.
WIDE = ("litert", "litert-reference", "tflm")


def test_which_operators_keep_signs():
    assert set(KEEPING) == {"ADD", "MUL", "MEAN"}
    assert not kind_of("SUB").keeps_sign


@pytest.mark.parametrize("kind", KEEPING)
def test_they_do_so_in_every_runtime(kind):
    """Random shapes and scales; zeros, ones, the largest and random numbers between."""
    runtimes = [name for name in WIDE if not RUNTIMES[name].missing()]
    for seed in range(12):
        graph = BUILDERS[kind](Draw(seed, "int16"))
        generator = np.random.default_rng(seed)
        samples = [
            generator.choice([0, 0, 1, 2, 2**15 - 1, generator.integers(2**15)], shape)
            for shape in (graph.tensors[name].shape for _, name in graph.inputs)
        ]
        samples = [sample.astype(np.int16) for sample in samples]
        constants = [tensor for tensor in graph.tensors.values() if tensor.is_constant]
        if any((tensor.data < 0).any() for tensor in constants):
            continue
        assert next(iter(reference.run(graph, samples).values())).min() >= 0
        for runtime in runtimes:
            assert open_session(write(graph), runtime)(samples)[0].min() >= 0


def chain(dtype: str, *operators: Operator) -> IntegerGraph:
    """Operators behind each other, on tensors of one shape called a, b, ..."""
    names = {name for each in operators for name in (*each.inputs, *each.outputs)}
    tensors = {name: one.activation(name, (1, 3, 4), dtype, 0.1, -4) for name in names}
    last = operators[-1].outputs[0]
    return validated(IntegerGraph("chain", tensors, operators, (("a", "a"),), ((last, last),)))


def operator(kind: str, inputs: str, output: str, activation: str = "NONE") -> Operator:
    return Operator(kind, tuple(inputs), (output,), output, {"activation": activation})


@pytest.mark.parametrize(
    ("dtype", "operators", "expected"),
    [
        ("int16", [("MUL", "aa", "b")], True),
        ("int16", [("MUL", "aa", "b"), ("ADD", "bb", "c"), ("MUL", "cb", "d")], True),
        ("int16", [("MUL", "aa", "b"), ("ADD", "ba", "c")], False),
        ("int16", [("MUL", "aa", "b"), ("SUB", "bb", "c")], False),
        ("int16", [("ADD", "aa", "b")], False),
        ("int16", [("ADD", "aa", "b", "RELU"), ("ADD", "bb", "c")], True),
        # Kernels of int8 have zero points, around which they round in ways of their own.
        ("int8", [("MUL", "aa", "b")], False),
        ("int8", [("ADD", "aa", "b", "RELU")], True),
    ],
)
def test_what_is_known_of_chains(dtype, operators, expected):
    graph = chain(dtype, *(operator(*each) for each in operators))
    found = is_positive(graph.tensors, graph.operators, operators[-1][2])
    assert found == expected
