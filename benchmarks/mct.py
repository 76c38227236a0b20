"""EPTQ beside Sony MCT's GPTQ: the same model, samples, batches and steps, in one run.

    python -m benchmarks.mct [--models resnet8] [--bits 4] [--samples 1024] [--steps 2000]
        [--scores no yes]

Both learn rounding by network-wise distillation with Hessian scores a sample and layer and with
activations quantized gradually, at 8-bit activations. MCT works with Keras 2 in an environment of
its own, made where `--environment` says, and ends with a model that fakes quantization; ours ends
with a file that is written and verified. Printed are the seconds of each without imports, those
with the scores taken off the losses, and accuracies on the same test images: of MCT's Keras model
and of our file in LiteRT.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.environments import python_with
from benchmarks.models import Task, load
from tfeptq.report.scores import score
from tfeptq.report.tables import show

ENVIRONMENT = Path.home() / ".cache" / "tfeptq-benchmarks" / "mct"
_PACKAGES = ("model-compression-toolkit==2.6.1", "tensorflow==2.15.1")
#: Settings that Keras 2 and 3 both know under one name and write in one way.
_COMMON = (
    "activation", "axis", "depth_multiplier", "dilation_rate", "epsilon", "filters", "groups",
    "kernel_size", "padding", "pool_size", "rate", "strides", "target_shape", "units", "use_bias",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """Seconds of one tool, and what its result gets right on the test images."""

    tool: str
    has_attention: bool
    seconds: float
    accuracy: float
    error: float


def describe(model: keras.Model, folder: Path) -> None:
    """Writes layers.json and weights.npz, from which Keras 2 can build the same model."""
    weights: dict[str, np.ndarray] = {}
    layers: list[tuple[str, str, dict[str, Any], list[str]]] = []
    writer = {id(layer.output): layer.name for layer in model.layers}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            layers.append((layer.name, kind, {"shape": layer.output.shape[1:]}, []))
            continue
        settings = layer.get_config()
        own = {key: settings[key] for key in _COMMON if key in settings}
        arguments = layer.input if isinstance(layer.input, list) else [layer.input]
        sources = [writer[id(tensor)] for tensor in arguments]
        layers.append((layer.name, kind, own, sources))
        weights.update({f"{layer.name}:{i}": w for i, w in enumerate(layer.get_weights())})
    ends = [writer[id(tensor)] for tensor in (model.inputs[0], model.outputs[0])]
    description = {"layers": layers, "input": ends[0], "output": ends[1]}
    (folder / "layers.json").write_text(json.dumps(description), "utf-8")
    np.savez(folder / "weights.npz", **weights)


def by_mct(task: Task, python: Path, options: argparse.Namespace, *, has_attention: bool) -> Run:
    epochs = round(options.steps / math.ceil(options.samples / options.batch))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        describe(task.model, folder)
        np.save(folder / "samples.npy", task.calibration[: options.samples])
        np.save(folder / "images.npy", task.images)
        script = Path(__file__).with_name("mct_rounding.py")
        command = [python, script, folder, options.bits, epochs, options.batch, int(has_attention)]
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(f"MCT failed:\n{ended.stderr[-2000:]}")
        with np.load(folder / "mct.npz") as found:
            return _run("MCT", task, has_attention, float(found["seconds"]), found["outputs"])


def by_us(task: Task, options: argparse.Namespace, *, has_attention: bool) -> Run:
    settings: dict[str, Any] = {} if has_attention else {"threshold": "mse"}
    config = tfeptq.QuantizationConfig(
        weight_bits=options.bits,
        first_last_bits=None,
        samples=options.samples,
        batch_size=options.batch,
        steps=options.steps,
        sample_layer_attention=has_attention,
        **settings,
    )
    begin = time.perf_counter()
    quantized = tfeptq.quantize(task.model, task.calibration[: options.samples], config, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        tflite_export.export(quantized, path)
        seconds = time.perf_counter() - begin
        outputs = tflite_export.run(path, task.images)
    return _run("tfeptq", task, has_attention, seconds, outputs)


def _run(tool: str, task: Task, has_attention: bool, seconds: float, outputs: np.ndarray) -> Run:
    found = score(outputs, task.labels)
    return Run(tool, has_attention, seconds, 100 * found.value, 100 * found.error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8"])
    parser.add_argument("--bits", type=int, default=4, choices=(2, 4, 8), help="that MCT has")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=10000, help="of the test")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--scores", nargs="+", default=["no", "yes"], choices=("no", "yes"))
    options = parser.parse_args()
    python = python_with(options.environment, *_PACKAGES)
    for name in options.models:
        task = load(name)
        images, labels = task.images[: options.images], task.labels[: options.images]
        task = dataclasses.replace(task, images=images, labels=labels)
        runs = []
        for has_attention in (each == "yes" for each in options.scores):
            runs.append(by_us(task, options, has_attention=has_attention))
            print(runs[-1], flush=True)
            runs.append(by_mct(task, python, options, has_attention=has_attention))
            print(runs[-1], flush=True)
        _table(f"{name}, W{options.bits}A8, {options.samples} samples", options.steps, runs)


def _table(title: str, steps: int, runs: list[Run]) -> None:
    seconds = {(run.tool, run.has_attention): run.seconds for run in runs}
    lines = [
        (
            run.tool,
            "yes" if run.has_attention else "no",
            f"{run.seconds:.1f}",
            f"{seconds['MCT', run.has_attention] / run.seconds:.1f}",
            f"{run.accuracy:.2f} +- {run.error:.2f}",
        )
        for run in runs
    ]
    columns = ("", "Hessian scores", "s", "MCT takes times", "accuracy, %")
    show(f"{title}, {steps} steps", columns, lines)
    if len({has_attention for _, has_attention in seconds}) > 1:
        scores = {tool: seconds[tool, True] - seconds[tool, False] for tool in ("tfeptq", "MCT")}
        print("seconds that the scores take:", {tool: round(s, 1) for tool, s in scores.items()})


if __name__ == "__main__":
    main()
