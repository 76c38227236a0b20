"""Seconds of each stage with workers, beside one process with the same cores.

    python -m benchmarks.workers [--model resnet8] [--samples 512] [--workers 1 2 4] [--rows F]

Every stage is run by this process alone, with all cores of the machine as TensorFlow takes them,
and then by 1, 2 and 4 workers that share the cores. Seconds hold whatever a stage needs, tracing in
each worker among it; that workers start is a row of its own. Processor seconds are those of this
process and of all that it has started. Parts and the bytes of their results say what a network
would carry back. The bits of all results are compared.

Then a calculation of what more machines would take, from this process's own parts: what it does by
itself, what every worker does before its first part, the parts shared out, the bytes that come back
to it one after the other, and those that go out, from machine to machine in a tree.
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
import ray.cloudpickle

import tfeptq
from benchmarks.conversions import task_of
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.calibrate.ranges import calibration_histograms
from tfeptq.canonical import linear
from tfeptq.data.samples import take_samples
from tfeptq.data.shares import Build, Run, Workers, shared_among
from tfeptq.distributed.packing import packed
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces
from tfeptq.preparation import prepare
from tfeptq.report.tables import show

#: Of a search: samples that choices are scored on, and what they may lose.
_SCORED, _RELATIVE = 1000, 0.98
#: Of the calculation.
_MACHINES = (1, 2, 4, 10, 100)


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
class Timed:
    """This process as the only worker, one part after the other.

    Attributes:
        first: seconds of building and of the first part, stage by stage within one run.
        later: seconds of every other part.
        sent, fetched: bytes of results, and of inputs.
        is_even: whether parts are shares that could be cut into any number.
    """

    first: float = 0.0
    later: list[float] = dataclasses.field(default_factory=list)
    sent: int = 0
    fetched: int = 0
    is_even: bool = False
    count: int = 4
    trains: bool = False

    def opened(self, build: Build, inputs: Mapping[str, Any], title: str) -> Run:
        known = {name: packed(value) for name, value in inputs.items()}
        self.fetched += len(ray.cloudpickle.dumps(known))
        begin = time.perf_counter()
        run = build(**inputs)
        built = time.perf_counter() - begin

        def results(items: Sequence[Any], common: Any = None) -> Generator[Any]:
            for index, item in enumerate(items):
                begin = time.perf_counter()
                result = run(item)
                seconds = time.perf_counter() - begin
                if index == 0:
                    self.first += built + seconds
                else:
                    self.later.append(seconds)
                self.sent += len(pickle.dumps(result, protocol=5))
                self.is_even = isinstance(item, (range, list))
                yield result

        return results

    def predicted(self, total: float, machines: int, bandwidth: float) -> float:
        """Seconds on so many machines with one worker each.

        Args:
            total: seconds of the stage with this object, parts and all else.
            bandwidth: bytes a second between two machines.
        """
        part = float(np.mean(self.later)) if self.later else 0.0
        count = 1 + len(self.later)
        alone = max(total - self.first - sum(self.later), 0.0)
        # What comes before the first part, tracing most of all, every worker does for itself.
        before = max(self.first - part, 0.0)
        each = count / machines if self.is_even else -(-count // machines)
        spread = self.fetched * np.ceil(np.log2(machines)) if machines > 1 else 0.0
        back = self.sent if machines > 1 else 0
        return alone + before + each * part + (spread + back) / bandwidth


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


def calculated(name: str, count: int, bandwidth: float) -> Generator[tuple[str, ...]]:
    """Of every stage, the seconds that 1 to 100 machines would take."""
    for stage, run in stages(name, count).items():
        if stage == "search":
            continue
        timed = Timed()
        begin = time.perf_counter()
        with shared_among(timed):
            run()
        total = time.perf_counter() - begin
        seconds = (timed.predicted(total, number, bandwidth) for number in _MACHINES)
        megabytes = f"{timed.fetched / 1e6:.1f}", f"{timed.sent / 1e6:.1f}"
        yield stage, str(1 + len(timed.later)), *megabytes, *(f"{each:.2f}" for each in seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8", help="see benchmarks.conversions")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--bandwidth", type=float, default=1.25e8, help="bytes a second")
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
    machines = (f"{number} machines" for number in _MACHINES)
    show(
        f"Calculated for {arguments.bandwidth / 1.25e8:g} Gbit/s, seconds without the start",
        ("stage", "parts", "MB out", "MB back", *machines),
        calculated(arguments.model, arguments.samples, arguments.bandwidth),
    )


if __name__ == "__main__":
    main()
