"""The operators of an integer graph: one module a family, each operator described once.

What a description holds says `tflite_export.graph.kinds.OperatorKind`. Importing this package makes
the operators known; `tflite_export.graph.kinds` does so when it is asked for the first.
"""

from tflite_export.operators import (
    curves,
    elementwise,
    matmul,
    movement,
    nonlinear,
    padding,
    pooling,
    reductions,
    rescaling,
    resize,
    roots,
    slices,
    softmax,
    tables,
    transposed,
    weighted,
)

__all__ = [
    "curves",
    "elementwise",
    "matmul",
    "movement",
    "nonlinear",
    "padding",
    "pooling",
    "reductions",
    "rescaling",
    "resize",
    "roots",
    "slices",
    "softmax",
    "tables",
    "transposed",
    "weighted",
]
