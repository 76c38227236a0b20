"""Seconds of the stages and of one training step, as ratios within one run.

    python -m benchmarks.speed [--models resnet8 resnet20]

Prints, for each model: one distillation step against one plain Keras training step of the float
model at the same batch size (both compiled with XLA), scores of all layers, and the export.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.models import Task, load
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.report.tables import show

BATCH, STEPS = 32, 100


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


def plain_step(task: Task) -> float:
    """Median seconds of a plain Keras training step of the float model."""
    model = keras.models.clone_model(task.model)
    model.compile("adam", "mean_squared_error", jit_compile=True)
    samples = task.calibration[: BATCH * STEPS]
    targets = model.predict(samples, verbose=0)
    clock = Clock()
    epochs = -(-STEPS * BATCH // len(samples))
    whole = len(samples) // BATCH * BATCH
    model.fit(
        samples[:whole], targets[:whole], batch_size=BATCH, epochs=epochs, verbose=0,
        callbacks=[clock],
    )  # fmt: skip
    return clock.median


def distillation_step(task: Task) -> float:
    """Median seconds of an EPTQ step."""
    clock = Clock()
    config = tfeptq.QuantizationConfig(weight_bits=4, steps=STEPS, batch_size=BATCH)
    tfeptq.quantize(task.model, task.calibration, config, callbacks=[clock])
    return clock.median


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "resnet20"])
    warnings.simplefilter("ignore", UserWarning)
    rows = []
    for name in parser.parse_args().models:
        task = load(name)
        canonical = tfeptq.prepare(task.model)
        samples = [task.calibration[:1024]]
        plain, ours = plain_step(task), distillation_step(task)
        written, verified = export_seconds(task)
        attention = seconds(lambda c=canonical, s=samples: channel_attention(c, s))
        weights = seconds(lambda c=canonical, s=samples: weight_scores(c, s))
        rows.append(
            (
                name,
                f"{1e3 * plain:.1f}",
                f"{1e3 * ours:.1f}",
                f"{ours / plain:.2f}",
                f"{attention:.2f}",
                f"{weights:.2f}",
                f"{written:.2f}",
                f"{verified:.2f}",
            )
        )
    columns = (
        "model", "plain step ms", "EPTQ step ms", "ratio", "SLA s", "weight scores s", "export s",
        "with proof s",
    )  # fmt: skip
    show(f"Median step at batch {BATCH}; scores of up to 1024 samples", columns, rows)


if __name__ == "__main__":
    main()
