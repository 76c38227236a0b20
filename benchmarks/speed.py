"""Seconds of the stages and of one training step, as ratios within one run.

    python -m benchmarks.speed [--models resnet8 dscnn resnet20 mobilenetv2@224] [--batch 32]

Prints, for each model: one distillation step against one plain Keras training step of the float
model at the same batch size, peaks of memory, scores of all layers, and the export. With `--runs 5`
steps are measured five times, in turns, as computers have slow minutes: medians are printed, and
the least and the largest ratio of a turn. Whole conversions beside TFLiteConverter's:
`python -m benchmarks.conversions`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.conversions import task_of
from benchmarks.models import Task
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.report.tables import show
from tfeptq.stage_samples import DEFAULT_STAGES


class Clock(keras.callbacks.Callback):
    """Time of every step but the first ones, which compile."""

    def __init__(self, skipped: int = 10) -> None:
        super().__init__()
        self._skipped = skipped
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if self._skipped:
            self._skipped -= 1
        else:
            self.seconds.append(time.perf_counter() - self._begin)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def plain_step(name: str, batch: int, steps: int, jit_compile: bool) -> float:
    """Median seconds of a plain Keras training step of the float model."""
    task = task_of(name)
    model = keras.models.clone_model(task.model)
    model.compile("adam", "mean_squared_error", jit_compile=jit_compile)
    samples = task.calibration[: batch * steps]
    targets = model.predict(samples, verbose=0, batch_size=batch)
    clock = Clock()
    whole = len(samples) // batch * batch
    model.fit(
        samples[:whole],
        targets[:whole],
        batch_size=batch,
        epochs=-(-steps * batch // whole),
        verbose=0,
        callbacks=[clock],
    )
    return clock.median


def distillation_step(name: str, batch: int, steps: int) -> float:
    """Median seconds of an EPTQ step, at the end of the whole recipe."""
    clock = Clock()
    task = task_of(name)
    config = tfeptq.QuantizationConfig(weight_bits=4, steps=steps, batch_size=batch)
    tfeptq.quantize(task.model, task.calibration, config, callbacks=[clock])
    return clock.median


def alone(function: Callable[..., float], *arguments: Any) -> tuple[float, float]:
    """Result of a function in a process of its own, and its peak of memory in GB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        result = pool.submit(function, *arguments).result()
        return result, pool.submit(peak).result()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def export_seconds(task: Task) -> tuple[float, float]:
    """Seconds of writing a file, and of writing and verifying it."""
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="nearest")
    graph = tfeptq.quantize(task.model, task.calibration, config).freeze()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        return tuple(  # type: ignore[return-value]
            seconds(lambda v=verify: tflite_export.export(graph, path, target="android", verify=v))
            for verify in (False, True)
        )


def in_turns(name: str, batch: int, steps: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step and peaks, (runs, 2), of ours and of a plain one.

    That is the faster of those with and without XLA.
    """
    ours, plain = [], []
    for _ in range(runs):
        ours.append(alone(distillation_step, name, batch, steps))
        plain.append(min(alone(plain_step, name, batch, steps, jit) for jit in (True, False)))
    return np.array(ours), np.array(plain)


def row(name: str, batch: int, steps: int, runs: int) -> tuple[str, ...]:
    """All measurements of one model."""
    all_ours, all_plain = in_turns(name, batch, steps, runs)
    ratios = all_ours[:, 0] / all_plain[:, 0]
    (ours, ours_peak), (plain, plain_peak) = (np.median(all_ours, 0), np.median(all_plain, 0))
    spread = f" ({ratios.min():.2f} to {ratios.max():.2f})" if runs > 1 else ""
    task = task_of(name)
    canonical = tfeptq.prepare(task.model)
    samples = [task.calibration[:1024]]
    written, verified = export_seconds(task)
    attention = seconds(lambda: channel_attention(canonical, samples))
    count = DEFAULT_STAGES.weight_scores
    weights = seconds(lambda: weight_scores(canonical, samples, count=count))
    return (
        name,
        str(batch),
        f"{1e3 * plain:.1f}",
        f"{1e3 * ours:.1f}",
        f"{np.median(ratios):.2f}{spread}",
        f"{plain_peak:.2f}",
        f"{ours_peak:.2f}",
        f"{len(samples[0])}",
        f"{attention:.1f}",
        f"{weights:.1f}",
        f"{written:.2f}",
        f"{verified:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "dscnn", "resnet20"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--runs", type=int, default=1, help="of the steps, in turns")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    rows = [row(name, options.batch, options.steps, options.runs) for name in options.models]
    columns = (
        "model", "batch", "plain step ms", "EPTQ step ms", "ratio", "plain peak GB", "peak GB",
        "samples", "SLA s", "weight scores s", "export s", "with proof s",
    )  # fmt: skip
    show("One step at a time, the median; peaks of whole processes", columns, rows)


if __name__ == "__main__":
    main()
