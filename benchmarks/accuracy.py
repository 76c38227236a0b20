"""Accuracy of exported files in LiteRT: methods x widths x models, and the ablation at 3 bits.

    python -m benchmarks.accuracy [--models resnet8 dscnn resnet20] [--bits 8 4 3 2] [--steps 2000]

Every result is a file that was written, verified and run. Results are appended to
benchmarks/results/accuracy.jsonl; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import tfeptq
import tflite_export
from benchmarks.models import Task, load
from benchmarks.rows import record
from tfeptq.report.scores import score
from tfeptq.report.tables import show

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"
#: Columns of `figures`.
FIGURES = ("float", "Keras", "file", "+-", "agree", "bytes", "s")
METHODS: dict[str, dict[str, Any]] = {
    "max": {"threshold": "max", "rounding": "nearest", "bias_correction": False},
    "hmse": {"threshold": "hmse", "rounding": "nearest", "bias_correction": False},
    "hmse+bias": {"threshold": "hmse", "rounding": "nearest"},
    "nearest": {"rounding": "nearest"},
    "optq": {"rounding": "optq"},
    "eptq": {},
}
ABLATION: dict[str, dict[str, Any]] = {
    "eptq": {},
    "without SLA": {"sample_layer_attention": False},
    "SLA by layer, as published": {"channel_attention": False},
    "without gradual activations": {"gradual_activations": False},
    "without gradual rounding": {"gradual_rounding": False},
    "MSE thresholds": {"threshold": "mse"},
    "without trained scales": {"train_scales": False},
    "without trained biases": {"train_biases": False},
    "without bias correction": {"bias_correction": False},
    "started from OPTQ": {"initial_rounding": "optq"},
}


@dataclasses.dataclass(frozen=True)
class Result:
    """One exported file. Accuracies in percent; `error` is their standard error."""

    model: str
    method: str
    bits: int
    first_last_bits: int | None
    steps: int
    float_accuracy: float
    keras_accuracy: float
    file_accuracy: float
    error: float
    agreement: float
    size_bytes: int
    seconds: float
    samples: int = 1024
    augmented: bool = False
    start: str = "nearest"


def measure(
    task: Task, method: str, settings: dict[str, Any], *, target: str = "android", **common: Any
) -> Result:
    """Quantizes, exports, verifies, runs the file and scores it."""
    config = tfeptq.QuantizationConfig(target=target, **{**common, **settings})
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        quantized = tfeptq.quantize(task.model, task.calibration, config)
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        size = tflite_export.export(quantized, path, target=target).size_bytes
        outputs = np.asarray(tflite_export.run(path, task.images))
    keras_outputs = quantized.predict(task.images, verbose=0)
    scores = [
        score(values, task.labels)
        for values in (task.model.predict(task.images, verbose=0), keras_outputs, outputs)
    ]
    return Result(
        task.name,
        method,
        int(config.weight_bits),  # type: ignore[arg-type]
        config.first_last_bits,
        config.steps,
        *(round(100 * each.value, 2) for each in scores),
        round(100 * scores[2].error, 2),
        round(100 * float(np.mean(keras_outputs.argmax(1) == outputs.argmax(1))), 2),
        size,
        round(seconds, 1),
        config.samples,
        config.augmentation is not None,
        config.initial_rounding,
    )


def table(results: list[Result]) -> None:
    show(
        "Accuracy of the exported file in LiteRT, percent",
        ("model", "method", "bits", "ends", *FIGURES),
        [(r.model, r.method, r.bits, r.first_last_bits or r.bits, *figures(r)) for r in results],
    )


def figures(result: Result) -> tuple[float, ...]:
    """What was measured, as tables show it."""
    return (
        result.float_accuracy,
        result.keras_accuracy,
        result.file_accuracy,
        result.error,
        result.agreement,
        result.size_bytes,
        result.seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "dscnn", "resnet20"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--ends", nargs="+", default=["8", "none"], help="first_last_bits")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", choices=["optq", "nearest"], default="nearest", help="of EPTQ")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--augment", action="store_true", help="copies fill up to --samples")
    parser.add_argument("--ablation", action="store_true", help="the ablation at 3 bits instead")
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    options = parser.parse_args()
    if options.table:
        lines = RESULTS.read_text().splitlines()
        table([Result(**json.loads(line)) for line in lines])
        return
    results = []
    for name in options.models:
        for method, settings, bits, ends in _plan(options):
            task = load(name)
            common = {
                "steps": options.steps,
                "seed": options.seed,
                "samples": options.samples,
                "initial_rounding": options.start,
                "augmentation": task.augmentation if options.augment else None,
                "weight_bits": bits,
            }
            result = measure(task, method, settings, first_last_bits=ends, **common)
            record(result, RESULTS)
            results.append(result)
    table(results)


def _plan(options: argparse.Namespace) -> list[tuple[str, dict[str, Any], int, int | None]]:
    ends = [None if text == "none" else int(text) for text in options.ends]
    if options.ablation:
        return [(name, settings, 3, 8) for name, settings in ABLATION.items()]
    return [
        (method, METHODS[method], bits, end)
        for bits in options.bits
        for end in ends
        for method in options.methods
        # At 8 bits nothing distinguishes the first and last layers.
        if not (bits == 8 and end is None)
    ]


if __name__ == "__main__":
    main()
