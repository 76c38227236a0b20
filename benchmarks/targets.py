"""Five benchmark models on four targets: bytes, memory, speed, accuracy in the target's runtime.

    python -m benchmarks.targets [--models resnet8 dscnn vww autoencoder wakeword]
        [--targets android coral ethos-u microcontroller]
        [--bits benchmark 8 4 3 mixed] [--steps 0]

Every row is a file that was written, verified operator by operator and run; rows "benchmark" are
MLPerf Tiny's own int8 files under the same measurements. `--steps 0` rounds to nearest. "mixed"
chooses 2, 3, 4 or 8 bits a layer, the smallest that hold 99 % of the float accuracy; for
microcontrollers, smallest after look-up tables.

Only resnet8 and dscnn have labelled data. The others are calibrated and compared on stand-ins:
enlarged CIFAR-10 photographs for vww, noise over the input range of the benchmark's file for
autoencoder and wakeword. Their figures speak of arithmetic, not of the task; "mixed" then holds
the outputs within 5 % of the float model's.

Results are appended to benchmarks/results/targets.jsonl; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.models import ASSETS, load
from benchmarks.rows import record
from tfeptq.report.scores import correct
from tfeptq.report.tables import show
from tflite_export.file.reader import parse, read_bytes
from tflite_export.packaging import CompressionError, compress, vela_report
from tflite_export.runtimes.tflm import arena_bytes
from tflite_export.targets.android import android_report

RESULTS = Path(__file__).parent / "results" / "targets.jsonl"
TINY = ASSETS / "mlperf_tiny"
RUNTIME = {
    "android": "litert",
    "coral": "litert",
    "ethos-u": "tflm",
    "microcontroller": "tflm",
}
#: Widths that a target can use: below 8 bits coral gains nothing, android has no 3-bit container.
BITS = {
    "android": ("8", "4"),
    "coral": ("8",),
    "ethos-u": ("8", "4", "3", "mixed"),
    "microcontroller": ("8", "4", "3", "mixed"),
}
CANDIDATES = (2, 3, 4, 8)
#: Steps before each evaluation of the search for "mixed" widths, where rounding is learned at all.
SEARCH_STEPS = 200


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model, unlabelled calibration samples, test samples and, for two of them, labels."""

    name: str
    model: keras.Model
    calibration: np.ndarray
    samples: np.ndarray
    labels: np.ndarray | None
    reference: Path


@dataclasses.dataclass(frozen=True)
class Row:
    """One file on one target.

    Attributes:
        flash, ram: bytes; microcontroller: the (compressed) file and TFLM's arena; ethos-u: Vela's
            flash and SRAM.
        accuracy, float_accuracy: percent on the same samples, None without labels.
        agreement: percent of samples with the float model's class, None without labels, where the
            stand-ins hardly ever change it.
        difference: root mean square of the difference from the float model's outputs, in percent
            of the root mean square of these.
        verified: operators bit-identical to the integer reference, in the last runtime run.
        remark: delegation and latency, cycles and time, known blockers.
        steps: of learned rounding; 0: rounded to nearest.
    """

    model: str
    target: str
    bits: str
    file_bytes: int
    flash: int | None
    ram: int | None
    accuracy: float | None
    float_accuracy: float | None
    agreement: float | None
    difference: float
    verified: str
    remark: str
    steps: int = 0


def _labelled(name: str, task: str, file: str) -> Subject:
    found = load(task)
    calibration = found.calibration
    return Subject(
        name, found.model, calibration, found.images, found.labels, TINY / f"{file}_int8.tflite"
    )


def _photographs() -> Subject:
    """CIFAR-10, each pixel three by three, in [0, 1] as the model was trained."""
    with np.load(ASSETS / "cifar10" / "cifar10.npz") as data:
        images = [data[key][:1000] for key in ("x_train", "x_test")]
    train, test = (
        each.repeat(3, axis=1).repeat(3, axis=2).astype("float32") / 255 for each in images
    )
    model = tfeptq.load_model(TINY / "tiny_vww.keras")
    return Subject("vww", model, train[:500], test, None, TINY / "vww_int8.tflite")


def _noise(name: str, file: str) -> Subject:
    """Normal noise in the middle of the range that the benchmark's own file quantizes."""
    reference = TINY / f"{file}_int8.tflite"
    stored = parse(read_bytes(reference))
    tensor = stored.tensors[stored.inputs[0]]
    assert tensor.scale is not None
    assert tensor.zero_point is not None
    low, high = ((limit - tensor.zero_point[0]) * tensor.scale[0] for limit in (-128, 127))
    generator = np.random.default_rng(0)
    shape = (1500, *tensor.shape[1:])
    values = generator.normal((low + high) / 2, (high - low) / 8, shape).clip(low, high)
    model = tfeptq.load_model(TINY / f"tiny_{file}.keras")
    values = values.reshape(-1, *model.inputs[0].shape[1:]).astype("float32")
    return Subject(name, model, values[:500], values[500:], None, reference)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet8": lambda: _labelled("resnet8", "resnet8", "ic"),
    "dscnn": lambda: _labelled("dscnn", "dscnn", "kws"),
    "vww": _photographs,
    "autoencoder": lambda: _noise("autoencoder", "ad"),
    "wakeword": lambda: _noise("wakeword", "sww"),
}


def rows(subject: Subject, options: argparse.Namespace) -> Iterator[Row]:
    """All files of one model."""
    expected = subject.model.predict(subject.samples[: options.samples], verbose=0)
    for target in options.targets:
        if "benchmark" in options.bits:
            yield _measured(subject, target, "benchmark", subject.reference, expected, "")
        for bits in BITS[target]:
            if bits in options.bits:
                yield _ours(subject, target, bits, expected, options)


def _ours(
    subject: Subject, target: str, bits: str, expected: np.ndarray, options: argparse.Namespace
) -> Row:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        config = _config(subject, target, bits, options)
        saved = Path(folder) / "m.keras"
        tfeptq.quantize(subject.model, subject.calibration, config).save(saved)
        path = Path(folder) / "m.tflite"
        quantized = tfeptq.load_model(saved)
        result = tflite_export.export(quantized, path, target=target, samples=subject.samples[:4])
        assert result.verification is not None
        runs = [report for report in result.verification.runtimes if not report.skipped]
        verified = ", ".join(
            f"{run.runtime} {run.exact_operators}/{len(run.operators)}" for run in runs
        )
        row = _measured(subject, target, bits, path, expected, verified)
        return dataclasses.replace(row, steps=options.steps)


def _config(
    subject: Subject, target: str, bits: str, options: argparse.Namespace
) -> tfeptq.QuantizationConfig:
    common: dict[str, Any] = {"target": target, "seed": 0}
    if options.steps:
        common |= {"steps": options.steps}
    else:
        common |= {"rounding": "nearest", "threshold": "mse"}
    if bits != "mixed":
        return tfeptq.QuantizationConfig(weight_bits=int(bits), **common)
    metric, relative = (_rightness, 0.99) if subject.labels is not None else (_closeness, 0.95)
    goal = tfeptq.AccuracyTarget(
        metric(subject), relative, search_steps=min(options.steps, SEARCH_STEPS)
    )
    if target == "microcontroller":
        # Bounds nothing: it has bytes counted as look-up tables store them.
        common["budget"] = tfeptq.Budget(weight_bytes=1 << 40, compressed=True)
    return tfeptq.QuantizationConfig(
        weight_bits=CANDIDATES, first_last_bits=None, accuracy_target=goal, **common
    )


def _rightness(subject: Subject) -> Callable[[keras.Model], np.ndarray]:
    labels = subject.labels
    assert labels is not None

    def right(model: keras.Model) -> np.ndarray:
        found = correct(model.predict(subject.samples, verbose=0), labels)
        assert found is not None
        return found

    return right


def _closeness(subject: Subject) -> Callable[[keras.Model], np.ndarray]:
    """1 minus the relative distance of each sample's outputs (N, ...) from the float model's."""
    expected = subject.model.predict(subject.samples, verbose=0).reshape(len(subject.samples), -1)

    def close(model: keras.Model) -> np.ndarray:
        outputs = model.predict(subject.samples, verbose=0).reshape(expected.shape)
        distance = np.linalg.norm(outputs - expected, axis=1)
        return 1 - np.minimum(distance / np.linalg.norm(expected, axis=1), 1)

    return close


def _measured(
    subject: Subject, target: str, bits: str, path: Path, expected: np.ndarray, verified: str
) -> Row:
    content = path.read_bytes()
    flash, ram, remark = _PACKAGING[target](path, content)
    inputs = subject.samples[: len(expected)]
    shape = parse(content).tensors[parse(content).inputs[0]].shape
    outputs = tflite_export.run(
        content, inputs.reshape(len(inputs), *shape[1:]), runtime=RUNTIME[target]
    )
    outputs = np.asarray(outputs).reshape(expected.shape)
    return Row(
        subject.name,
        target,
        bits,
        len(content),
        flash,
        ram,
        _accuracy(outputs, subject.labels),
        _accuracy(expected, subject.labels),
        _agreement(outputs, expected) if subject.labels is not None else None,
        _difference(outputs, expected),
        verified,
        remark,
    )


def _accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    if labels is None:
        return None
    return round(100 * float(np.mean(outputs.argmax(1) == labels[: len(outputs)])), 2)


def _agreement(outputs: np.ndarray, expected: np.ndarray) -> float:
    return round(100 * float(np.mean(outputs.argmax(1) == expected.argmax(1))), 2)


def _difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    ratio = np.square(outputs - expected).mean() / np.square(expected).mean()
    return round(100 * float(np.sqrt(ratio)), 2)


def _on_a_phone(path: Path, content: bytes) -> tuple[int | None, int | None, str]:
    report = android_report(content)
    remark = (
        f"XNNPACK {report.delegation.delegated}/{report.delegation.operators}, "
        f"{report.latency.minimum:.2f} ms here; tflite-runtime: "
        f"{len(report.tflite_runtime_obstacles)} known obstacles"
    )
    return None, None, remark


def _on_coral(path: Path, content: bytes) -> tuple[int | None, int | None, str]:
    found = tflite_export.check(path, target="coral").findings
    return None, None, f"{len(found)} findings" if found else "no known blocker"


def _on_a_board(path: Path, content: bytes) -> tuple[int | None, int | None, str]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            packed = compress(content, Path(folder) / "m.tflite")
    except CompressionError:
        return len(content), arena_bytes(content), ""
    remark = f"{len(packed.tensors)} tables; {packed.size_bytes_before} B, arena "
    remark += f"{packed.arena_bytes_before} B without them"
    return packed.size_bytes, packed.arena_bytes, remark


def _on_an_npu(path: Path, content: bytes) -> tuple[int | None, int | None, str]:
    report = vela_report(content)
    milliseconds = 1000 * (report.inference_seconds or 0)
    remark = f"{report.cycles} cycles, {milliseconds:.2f} ms, {len(report.cpu_operators)} on CPU"
    return report.flash_bytes, report.sram_bytes, remark


_PACKAGING: dict[str, Callable[[Path, bytes], tuple[int | None, int | None, str]]] = {
    "android": _on_a_phone,
    "coral": _on_coral,
    "ethos-u": _on_an_npu,
    "microcontroller": _on_a_board,
}


def table(found: list[Row]) -> None:
    columns = (
        "model",
        "target",
        "bits",
        "steps",
        "file",
        "flash",
        "RAM",
        "acc.",
        "agree",
        "diff.",
        "remark",
    )
    show(
        "Files on their targets: bytes, percent",
        columns,
        [
            tuple(
                "" if value is None else value
                for value in (
                    row.model,
                    row.target,
                    row.bits,
                    row.steps,
                    row.file_bytes,
                    row.flash,
                    row.ram,
                    row.accuracy,
                    row.agreement,
                    row.difference,
                    row.remark,
                )
            )
            for row in found
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--targets", nargs="+", default=list(BITS), choices=list(BITS))
    parser.add_argument("--bits", nargs="+", default=["benchmark", "8", "4", "3", "mixed"])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--samples", type=int, default=500, help="test samples")
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    options = parser.parse_args()
    if options.table:
        table([Row(**json.loads(line)) for line in RESULTS.read_text().splitlines()])
        return
    if not ASSETS.is_dir():
        raise SystemExit(f"no assets at {ASSETS}; set TFEPTQ_ASSETS to their folder")
    found = []
    for name in options.models:
        for row in rows(SUBJECTS[name](), options):
            record(row, RESULTS)
            found.append(row)
    table(found)


if __name__ == "__main__":
    main()
