"""Accuracy against bytes: our files beside TFLiteConverter's and ai-edge-quantizer's.

    python -m benchmarks.peers [--models resnet8 dscnn] [--roundings nearest optq eptq]
    python -m benchmarks.peers --figure docs/assets/accuracy.svg

Everything is measured in one run, on the same samples, from files that LiteRT executed.
ai-edge-quantizer lives in an environment of its own, made where `--environment` says. Sony MCT is
not here: below 8 bits it writes no integer file. Lines go to benchmarks/results/peers.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tfeptq
import tflite_export
from benchmarks.environments import python_with
from benchmarks.models import Task, load
from benchmarks.rows import record
from tfeptq.report.scores import score
from tfeptq.report.tables import show
from tflite_export.packaging import CompressionError, compress

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
ENVIRONMENT = Path.home() / ".cache" / "tfeptq-benchmarks" / "ai-edge-quantizer"
_PACKAGE = "ai-edge-quantizer==0.10.0"
SAMPLES = 1024


@dataclasses.dataclass(frozen=True)
class Point:
    """One file. Accuracy and its standard error in percent."""

    model: str
    method: str
    bits: int
    size_bytes: int
    accuracy: float
    error: float


def peers(task: Task, samples: np.ndarray, folder: Path, python: Path) -> Iterator[Point]:
    """Files of the others, with their accuracy."""
    for method, bits, path in peer_files(task, samples, folder, python):
        yield _point(task, method, bits, path)


def peer_files(
    task: Task, samples: np.ndarray, folder: Path, python: Path
) -> Iterator[tuple[str, int, Path]]:
    """Method, width of the weights and file: of TFLiteConverter and ai-edge-quantizer.

    Args:
        python: interpreter of ai-edge-quantizer's environment.
    """
    converted = folder / "converter.tflite"
    converted.write_bytes(_converted(task, samples, is_integer=True))
    yield "TFLiteConverter", 8, converted
    source, data = folder / "float.tflite", folder / "samples.npy"
    source.write_bytes(_converted(task, samples, is_integer=False))
    np.save(data, samples)
    for bits in (8, 4):
        output = folder / f"ai_edge_{bits}.tflite"
        script = Path(__file__).with_name("ai_edge.py")
        command = [python, script, source, data, str(bits), output]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        yield "ai-edge-quantizer", bits, output


def ours(
    task: Task, samples: np.ndarray, folder: Path, rounding: str, steps: int
) -> Iterator[Point]:
    """Our files: with int4 storage, and with look-up tables below."""
    for bits in (8, 4, 3, 2):
        config = tfeptq.QuantizationConfig(
            weight_bits=bits, target="microcontroller", rounding=rounding, steps=steps
        )
        quantized = tfeptq.quantize(task.model, samples, config)
        result = tflite_export.export(quantized, folder / "ours.tflite")
        size = result.size_bytes
        if bits < 4:
            try:
                # The same integers, proven on every tensor; only TFLM runs this one.
                size = compress(result.path, folder / "compressed.tflite").size_bytes
            except CompressionError:
                continue
        point = _point(task, f"tfeptq, {rounding}", bits, result.path)
        yield dataclasses.replace(point, size_bytes=size)


def _converted(task: Task, samples: np.ndarray, *, is_integer: bool) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(task.model)
    if is_integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _point(task: Task, method: str, bits: int, path: Path) -> Point:
    found = score(_run(path, task.images), task.labels)
    return Point(task.name, method, bits, path.stat().st_size, 100 * found.value, 100 * found.error)


def _run(path: Path, images: np.ndarray) -> np.ndarray:
    """Values of the only output, one image at a time, as a file of any make takes them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    run: list[np.ndarray] = []
    for image in images:
        interpreter.set_tensor(entry["index"], _to(entry, image[None]))
        interpreter.invoke()
        run.append(_from(end, interpreter.get_tensor(end["index"])))
    return np.concatenate(run)


def _to(detail: dict, values: np.ndarray) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero_point = detail["quantization"]
    ends = np.iinfo(detail["dtype"])
    integers = np.round(values / scale) + zero_point
    return np.clip(integers, ends.min, ends.max).astype(detail["dtype"])


def _from(detail: dict, values: np.ndarray) -> np.ndarray:
    if detail["dtype"] == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * scale


def ai_edge_python(environment: Path) -> Path:
    """The interpreter of ai-edge-quantizer's environment, which is made if it is not there."""
    return python_with(environment, _PACKAGE)


def draw(points: Sequence[Point], path: Path) -> None:
    """One panel a model: accuracy of the files against their bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tfeptq"
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(point.model for point in points))
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 3.6), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        for method in dict.fromkeys(point.method for point in points):
            own = [p for p in points if (p.model, p.method) == (model, method)]
            own.sort(key=lambda point: point.size_bytes)
            is_ours = method.startswith("tfeptq")
            axis.errorbar(
                [point.size_bytes / 1000 for point in own],
                [point.accuracy for point in own],
                [point.error for point in own],
                marker="o" if is_ours else "s",
                linestyle="-" if is_ours else ":",
                capsize=2,
                label=method,
            )
            for point in own:
                place = (point.size_bytes / 1000, point.accuracy)
                axis.annotate(f"{point.bits}", place, (4, 4), textcoords="offset points", size=8)
        axis.set(title=model, xlabel="file, kB", ylabel="accuracy, %")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def _kept() -> list[Point]:
    """The last of each model, method and width."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    points = (Point(**json.loads(line)) for line in lines)
    return list({(p.model, p.method, p.bits): p for p in points}.values())


def _measured(arguments: argparse.Namespace) -> None:
    python = ai_edge_python(arguments.environment)
    for name in arguments.models:
        task = load(name)
        samples = task.calibration[:SAMPLES]
        with tempfile.TemporaryDirectory() as folder:
            runs = [peers(task, samples, Path(folder), python)]
            runs += [
                ours(task, samples, Path(folder), rounding, arguments.steps)
                for rounding in arguments.roundings
            ]
            for point in itertools.chain(*runs):
                record(point, RESULTS, is_printed=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "dscnn"])
    parser.add_argument("--roundings", nargs="*", default=["nearest", "optq", "eptq"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    parser.add_argument("--figure", type=Path, help="draw what was measured before, and stop")
    arguments = parser.parse_args()
    if arguments.figure is None:
        _measured(arguments)
    else:
        draw(_kept(), arguments.figure)
    show(
        "Accuracy of the files in LiteRT, percent",
        ("model", "method", "bits", "bytes", "accuracy", "error"),
        [
            (p.model, p.method, p.bits, p.size_bytes, f"{p.accuracy:.1f}", f"{p.error:.1f}")
            for p in _kept()
        ],
    )


if __name__ == "__main__":
    main()
