"""Accuracy of exported files in LiteRT at narrow and mixed activation widths.

    python -m benchmarks.activations [--models resnet8] [--methods nearest optq eptq] [--steps 1000]

First and last weights, inputs and logits have 8 bits. "sums 16": the residual additions, whose
neighbours are requantized.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from benchmarks.accuracy import FIGURES, Result, figures, measure
from benchmarks.models import load
from tfeptq.preparation import prepare
from tfeptq.report.tables import show

#: Title -> (weight bits, bits of the activations, bits of the residual additions).
SCHEMES = {
    "W8A8": (8, 8, 8),
    "W8A16": (8, 16, 16),
    "W8A8, sums 16": (8, 8, 16),
    "W4A8": (4, 8, 8),
    "W4A8, sums 16": (4, 8, 16),
    "W4A6": (4, 6, 6),
    "W4A4": (4, 4, 4),
    "W4A4, sums 8": (4, 4, 8),
}
METHODS = {"nearest": {"rounding": "nearest"}, "optq": {"rounding": "optq"}, "eptq": {}}


def widths(model: keras.Model, others: int, sums: int) -> int | Mapping[str, int]:
    """`activation_bits` of a scheme."""
    if others == sums:
        return others
    return {
        layer.name: sums if isinstance(layer, keras.layers.Add) else others
        for layer in model.layers
        if isinstance(layer, (keras.layers.Add, keras.layers.Conv2D, keras.layers.DepthwiseConv2D))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    results: list[tuple[str, Result]] = []
    for name in options.models:
        task = load(name)
        for method in options.methods:
            for title in options.schemes:
                weight_bits, others, sums = SCHEMES[title]
                settings = {
                    **METHODS[method],
                    "weight_bits": weight_bits,
                    "activation_bits": widths(prepare(task.model), others, sums),
                    "steps": options.steps,
                }
                results.append((title, measure(task, method, settings)))
                print(title, results[-1][1], flush=True)
    show(
        "Accuracy of the exported file in LiteRT, percent",
        ("model", "method", "widths", *FIGURES),
        [(r.model, r.method, title, *figures(r)) for title, r in results],
    )


if __name__ == "__main__":
    main()
