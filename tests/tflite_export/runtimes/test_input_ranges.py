"""Ranges of inputs, of which parts go into unlike tables."""

from __future__ import annotations

import numpy as np

from tests.tflite_export import one_operator as one
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor
from tflite_export.graph.validation import validated
from tflite_export.runtimes import reference
from tflite_export.runtimes.input_ranges import input_ranges


def places(name: str, *shape: int, data: np.ndarray | None = None) -> Tensor:
    return Tensor(name, shape, "int32", one.quantization(1.0), data, 32)


def two_tables() -> IntegerGraph:
    """The middle numbers of an input from 100 on, and the last ones of both inputs as they are."""
    plain = one.activation("y0", (1, 1, 2, 1, 3), "int8", 0.1)
    tensors = [
        places("x", 1, 1, 4, 1),
        places("z", 1, 1, 1, 1),
        places("middle", 1, 1, 2, 1),
        places("first", 1, 1, 2, 1, data=np.full((1, 1, 2, 1), -100, np.int32)),
        places("shifted", 1, 1, 2, 1),
        places("end", 1, 1, 1, 1),
        places("both", 1, 1, 2, 1),
        plain,
        one.activation("y1", plain.shape, "int8", 0.1),
        *(
            Tensor(name, (rows, 3), "int8", plain.quantization, np.ones((rows, 3), np.int8))
            for name, rows in (("t0", 7), ("t1", 5))
        ),
    ]
    middle = {"begin": (0, 0, 1, 0), "size": (1, 1, 2, 1)}
    end = {"begin": (0, 0, 3, 0), "size": (1, 1, 1, 1)}
    operators = (
        Operator("SLICE", ("x",), ("middle",), "middle", middle),
        Operator("ADD", ("middle", "first"), ("shifted",), "shifted", {"activation": "NONE"}),
        Operator("GATHER", ("t0", "shifted"), ("y0",), "y0", {}),
        Operator("SLICE", ("x",), ("end",), "end", end),
        Operator("CONCATENATION", ("end", "z"), ("both",), "both", {"axis": 2}),
        Operator("GATHER", ("t1", "both"), ("y1",), "y1", {}),
    )
    return validated(
        IntegerGraph(
            "tables",
            {tensor.name: tensor for tensor in tensors},
            operators,
            (("x", "x"), ("z", "z")),
            (("y0", "y0"), ("y1", "y1")),
        )
    )


def test_every_place_takes_what_its_own_table_has():
    (low, high), (other_low, other_high) = input_ranges(two_tables())
    whole = np.iinfo(np.int32)
    assert low.ravel().tolist() == [whole.min, 100, 100, 0]
    assert high.ravel().tolist() == [whole.max, 106, 106, 4]
    assert (other_low.item(), other_high.item()) == (0, 4)


def test_samples_of_unlike_places_are_within_all_tables_and_reach_their_ends():
    graph = two_tables()
    samples = one.random_samples(graph, count=99)
    reference.run(graph, samples)
    assert (samples[0][..., 1, 0].min(), samples[0][..., 1, 0].max()) == (100, 106)
    assert (samples[1].min(), samples[1].max()) == (0, 4)
