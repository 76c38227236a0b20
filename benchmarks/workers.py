"""Seconds of each stage with workers, beside one process with the same cores.

    python -m benchmarks.workers [--model resnet8] [--samples 512] [--workers 1 2 4] [--rows F]

Every stage is run by this process alone, with all cores of the machine as TensorFlow takes them,
and then by 1, 2 and 4 workers that share the cores. Seconds hold whatever a stage needs, tracing in
each worker among it; that workers start is a row of its own. Processor seconds are those of this
process and of all that it has started. Parts and the bytes of their results say what a network
would carry back. The bits of all results are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
from benchmarks.conversions import task_of
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.calibrate.ranges import calibration_histograms
from tfeptq.canonical import linear
from tfeptq.data.samples import take_samples
from tfeptq.data.shares import Build, Run, Workers, shared_among
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces
from tfeptq.preparation import prepare
from tfeptq.report.tables import show

#: Of a search: samples that choices are scored on, and what they may lose.
_SCORED, _RELATIVE = 1000, 0.98


@dataclasses.dataclass
class Counted:
    """Workers, and what their results weigh.

    Attributes:
        parts: results so far, `sent` their bytes.
    """

    workers: Workers
    parts: int = 0
    sent: int = 0

    @property
    def count(self) -> int:
        return self.workers.count

    @property
    def trains(self) -> bool:
        return self.workers.trains

    def opened(self, build: Build, inputs: Mapping[str, Any], title: str) -> Run:
        run = self.workers.opened(build, inputs, title)

        def results(items: Sequence[Any], common: Any = None) -> Generator[Any]:
            for result in run(items, common):
                self.parts += 1
                self.sent += len(pickle.dumps(result, protocol=5))
                yield result

        return results


@dataclasses.dataclass
class Accuracy:
    """Metric: whether samples are classified rightly."""

    images: np.ndarray
    labels: np.ndarray

    def __call__(self, model: keras.Model) -> np.ndarray:
        return model.predict(self.images, verbose=0).argmax(-1) == self.labels


def stages(name: str, count: int) -> dict[str, Callable[[], Any]]:
    """Stage -> what runs it anew."""
    task = task_of(name, count)
    model = prepare(task.model)
    samples = take_samples(task.calibration, model.inputs, samples=count, seed=0)
    plain = tfeptq.QuantizationConfig(
        weight_bits=4, rounding="nearest", samples=count, bias_correction=False, threshold="mse"
    )
    quantized = tfeptq.quantize(task.model, task.calibration, plain, verbose=0)
    weights = quantized.get_weights()

    def corrected() -> Any:
        quantized.set_weights(weights)
        return correct_biases(quantized, model, samples, count=count)

    found: dict[str, Callable[[], Any]] = {
        "ranges": lambda: calibration_histograms(model, samples),
        "attention": lambda: channel_attention(model, samples),
        "weight scores": lambda: weight_scores(model, samples, count=count),
        "pair terms": lambda: pair_terms(model, samples, _errors(model)),
        "traces": lambda: average_traces(model, samples, draws=(40, 40), tolerance=1e9),
        "bias correction": corrected,
    }
    if len(set(task.labels[:_SCORED].tolist())) > 1:
        metric = Accuracy(task.images[:_SCORED], task.labels[:_SCORED])
        found["search"] = functools.partial(_search, task.model, task.calibration, metric, count)
    return found


def _errors(model: keras.Model) -> dict[tuple[str, int], RoundingError]:
    generator = np.random.default_rng(0)
    return {
        (layer.name, bits): RoundingError(
            *(
                (generator.uniform(-1, 1, w.shape) * np.abs(w).max() / 2**bits).astype("float32")
                for w in layer.get_weights()
            )
        )
        for layer in model.layers
        if linear.is_weighted(layer)
        for bits in (2, 3, 4, 8)
    }


def _search(model: keras.Model, samples: np.ndarray, metric: Accuracy, count: int) -> Any:
    config = tfeptq.QuantizationConfig(
        weight_bits=(2, 3, 4, 8),
        rounding="optq",
        sensitivity="label_free",
        samples=count,
        accuracy_target=tfeptq.AccuracyTarget(metric, relative=_RELATIVE),
    )
    quantized = tfeptq.quantize(model, samples, config, verbose=0)
    return quantized.get_weights(), quantized.accuracy_search.evaluations


def processor_seconds() -> float:
    """Of this process and all that it has started, as long as they live."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
                used[int(folder.name)] = sum(map(int, fields[11:15]))
    total, own = 0, [os.getpid()]
    while own:
        process = own.pop()
        total += used.get(process, 0)
        own += [child for child, parent in parents.items() if parent == process]
    return total / os.sysconf("SC_CLK_TCK")


def _digest(result: Any) -> str:
    state = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            add(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                add(part)
        elif dataclasses.is_dataclass(value):
            add(list(vars(value).values()))
        else:
            state.update(np.asarray(value).tobytes())

    add(result)
    return state.hexdigest()[:12]


def measured(
    who: str, name: str, run: Callable[[], Any], counted: Counted | None
) -> dict[str, Any]:
    """A row of the table."""
    begin, used = time.perf_counter(), processor_seconds()
    result = run()
    row = {"who": who, "stage": name, "seconds": time.perf_counter() - begin}
    row["processor"] = processor_seconds() - used
    evaluations = result[1] if name == "search" else None
    row["bits"] = _digest(result[0] if name == "search" else result)
    if counted is not None:
        row |= {"parts": counted.parts, "sent": counted.sent}
    return row if evaluations is None else {**row, "evaluations": evaluations}


def rows(name: str, count: int, workers: Sequence[int]) -> Generator[dict[str, Any]]:
    """Of all stages, as they are measured."""
    warnings.simplefilter("ignore")
    todo = stages(name, count)
    for stage, run in todo.items():
        yield measured("alone", stage, run, None)
    for number in workers:
        who = f"{number} workers"
        begin, used = time.perf_counter(), processor_seconds()
        with tfeptq.distribute(workers=number) as cluster:
            cluster.map(abs, list(range(number)))
            yield {
                "who": who,
                "stage": "start",
                "seconds": time.perf_counter() - begin,
                "processor": processor_seconds() - used,
            }
            for stage, run in todo.items():
                counted = Counted(cluster)
                with shared_among(counted):
                    yield measured(who, stage, run, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8", help="see benchmarks.conversions")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=Path, help="rows are added to this file as they are found")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for row in rows(arguments.model, arguments.samples, arguments.workers):
        found.append(row)
        if arguments.rows is not None:
            with arguments.rows.open("a") as file:
                file.write(json.dumps({"model": arguments.model, **row}) + "\n")
    alone = {row["stage"]: row for row in found if row["who"] == "alone"}
    table = []
    for row in found:
        base = alone.get(row["stage"])
        ratio = "" if base is None else f"{base['seconds'] / row['seconds']:.2f}"
        same = "" if base is None else ("same" if base["bits"] == row["bits"] else "OTHER")
        seconds = f"{row['seconds']:.1f}", f"{row['processor']:.1f}"
        sent = f"{row['sent'] / 1e6:.2f}" if "sent" in row else ""
        numbers = str(row.get("parts", "")), sent, str(row.get("evaluations", ""))
        table.append((row["stage"], row["who"], *seconds, ratio, *numbers, same))
    columns = ("seconds", "processor s", "speed", "parts", "MB back", "evaluations", "bits")
    show(f"{arguments.model}, {arguments.samples} samples", ("stage", "who", *columns), table)


if __name__ == "__main__":
    main()
