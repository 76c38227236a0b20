"""Widths by layer within a size: sensitivities against uniform widths and random draws.

    python -m benchmarks.mixed_precision [--models resnet8 dscnn resnet20 resnet56] [--steps 1000]
        [--parts correlation activations divergence joint before after target]

correlation  rank correlation of predicted with measured losses, one layer and pairs of layers;
activations  rank correlation of predicted with measured losses, groups of activations;
divergence   measured divergence of the outputs at many budgets, by forward passes, with and without
             pair terms, against random draws;
joint        accuracy of files whose weights and activations are chosen within bit operations;
before       accuracy of exported files without training (`--untrained optq` or `nearest`);
after        the same after EPTQ;
target       the smallest size that holds 99 % of the float accuracy.

Sizes are learned bits, as an entropy-coding compiler (Ethos-U) or look-up tables store them;
budgets are fractions of the weight bytes at 8 bits. Results are appended to
benchmarks/results/mixed_precision.jsonl; `--table` prints what is there, `--plot F.html` draws it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr

import tfeptq
import tflite_export
from benchmarks.accuracy_plot import write_plot
from benchmarks.models import Task, load
from benchmarks.rows import record
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.checkpoint.steps import Checkpoint, open_checkpoint
from tfeptq.config import SENSITIVITIES
from tfeptq.data.samples import take_samples
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.report.scores import score
from tfeptq.report.tables import show
from tfeptq.selection.choice import Choice
from tfeptq.selection.factor import Table, weights
from tfeptq.selection.prepare import prepare_choice
from tfeptq.selection.variables import of_kind
from tfeptq.sensitivity.activation_sensitivity import activation_grids, activation_sensitivity
from tfeptq.sensitivity.measured import MeasuredDivergence
from tfeptq.sensitivity.method import Facts, Losses

RESULTS = Path(__file__).parent / "results" / "mixed_precision.jsonl"
WIDTHS = (2, 3, 4, 8)
BUDGETS = (0.5, 0.375, 0.3125)
TARGET = "ethos-u"
PARTS = ["correlation", "activations", "divergence", "joint", "before", "after", "target"]
ACTIVATION_WIDTHS = (4, 6, 8)
#: Ways of the part "target".
SEARCHES = ["layers-optq", "frontier-optq", "frontier-eptq"]
#: Budgets of the part "divergence", where a choice costs a forward pass.
FINE_BUDGETS = (0.6, 0.55, 0.5, 0.45, 0.4, 0.375, 0.35, 0.3125)

#: Columns that are too wide for a table.
_LISTS = ("widths", "candidates")


def keyed(losses: Losses) -> Table:
    """Losses of layers as those of a program's variables."""
    return {weights(name): table for name, table in losses.items()}


class Bench:
    """One model: its choices by every sensitivity, and the accuracy of files with given widths."""

    def __init__(
        self,
        task: Task,
        *,
        samples: int,
        seed: int,
        widths: tuple[int, ...] = WIDTHS,
        ends: int | None = 8,
        rounding: str = "eptq",
        start: str = "nearest",
        augments: bool = False,
        keep: str | None = None,
    ) -> None:
        self.task = task
        self.canonical = prepare(task.model)
        self.samples = take_samples(
            task.calibration,
            self.canonical.inputs,
            samples=samples if augments else min(samples, len(task.calibration)),
            seed=seed,
            augmentation=task.augmentation if augments else None,
        )
        self._accuracies: dict[str, dict[str, Any]] = {}
        self.config = tfeptq.QuantizationConfig(
            weight_bits=widths,
            target=TARGET,
            first_last_bits=ends,
            rounding=rounding,
            initial_rounding=start,
            measured_moves=0,
            samples=len(self.samples[0]),
            seed=seed,
        )
        self.choices: dict[str, Choice] = {}
        self.seconds: dict[str, float] = {}
        for method in SENSITIVITIES:
            begin = time.perf_counter()
            config = dataclasses.replace(self.config, sensitivity=method)
            with open_checkpoint(keep) as checkpoint:
                plan = QuantizationPlan.of(self.canonical, config)
                self.choices[method] = prepare_choice(
                    plan, self.samples, config, checkpoint=checkpoint
                )
            self.seconds[method] = time.perf_counter() - begin
        program = self.choices["label_free"].program
        widest = program.widest()
        self.table = {
            factor.named: {bits: costs["weight_bytes"] for (bits,), costs in factor.costs.items()}
            for factor in program.factors
            if all("weight_bytes" in costs for costs in factor.costs.values())
        }
        layers = map(self.canonical.get_layer, self.table)
        kernels = sum(np.prod(layer.kernel.shape) for layer in layers)
        self.scale_bytes = program.cost(widest, "weight_bytes") - int(kernels)
        self.kernel_bytes = int(kernels)

    @property
    def smallest(self) -> float:
        return self.fraction({name: min(entries) for name, entries in self.table.items()})

    def limit(self, fraction: float) -> float:
        """Weight bytes with their scales, where the weights take this part of their int8 bytes."""
        return fraction * self.kernel_bytes + self.scale_bytes

    def fraction(self, widths: dict[str, int]) -> float:
        size = sum(self.table[name][bits] for name, bits in widths.items())
        return (size - self.scale_bytes) / self.kernel_bytes

    def improved(self, method: str, fraction: float, moves: int) -> dict[str, int]:
        """The choice of a sensitivity after measurements on calibration samples."""
        choice = self.choices[method]
        divergence = MeasuredDivergence(
            self.canonical, self.samples, choice.sensitivity.errors, count=256
        )
        measured = dataclasses.replace(
            choice,
            measure=lambda widths: divergence(of_kind(widths, "weights")),
            rivals=[keyed(losses) for losses in choice.sensitivity.rivals],
            moves=moves,
        )
        return of_kind(measured.within({"weight_bytes": self.limit(fraction)}), "weights")

    def uniform(self, bits: int) -> dict[str, int]:
        """One width, but for the first and last layers where those are pinned."""
        return {name: bits if len(has) > 1 else 8 for name, has in self.table.items()}

    def random(self, fraction: float, seed: int) -> dict[str, int]:
        """Random widths, then random single changes until no layer can be raised any more."""
        generator = np.random.default_rng([seed, 1])
        widths = {
            name: int(generator.choice(list(entries))) for name, entries in self.table.items()
        }
        free = [name for name, entries in self.table.items() if len(entries) > 1]
        while self.fraction(widths) > fraction:
            name = generator.choice(free)
            narrower = [b for b in self.table[name] if b < widths[name]]
            widths[name] = max(narrower, default=widths[name])
        for name in generator.permutation(free):
            for bits in sorted(self.table[name]):
                raised = {**widths, name: bits}
                if bits > widths[name] and self.fraction(raised) <= fraction:
                    widths = raised
        return widths

    def file_accuracy(self, widths: dict[str, int], **settings: Any) -> dict[str, Any]:
        """Quantizes with these widths, exports, runs the file in LiteRT; once for equal widths."""
        key = json.dumps([widths, settings], sort_keys=True)
        if key not in self._accuracies:
            self._accuracies[key] = self._file_accuracy(widths, settings)
        return self._accuracies[key]

    def _file_accuracy(self, widths: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
        config = dataclasses.replace(self.config, weight_bits=widths, **settings)
        return self.accuracy_of(config)[0]

    def accuracy_of(
        self, config: tfeptq.QuantizationConfig
    ) -> tuple[dict[str, Any], tfeptq.QuantizedModel]:
        """Quantizes with fixed widths, exports, runs the file in LiteRT."""
        begin = time.perf_counter()
        quantized = tfeptq.quantize(self.task.model, self.samples, config)
        seconds = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.tflite"
            tflite_export.export(quantized, path, target=TARGET, verify=False)
            outputs = tflite_export.run(path, self.task.images)
        value = score(outputs, self.task.labels)
        widths = {name: bits for name, (bits, _) in quantized.bit_widths.items() if bits}
        result = {
            "size": round(100 * self.fraction(widths), 2),
            "accuracy": round(100 * value.value, 2),
            "error": round(100 * value.error, 2),
            "seconds": round(seconds, 1),
        }
        return result, quantized


def correlation(bench: Bench) -> Iterator[dict[str, Any]]:
    """Predicted against measured divergence, on test images that no prediction has seen."""
    measured, candidates = _measured(bench), bench.table
    free = [name for name, widths in candidates.items() if len(widths) > 1]
    singles = {(name, bits): measured({name: bits}) for name in free for bits in candidates[name]}
    for method, choice in bench.choices.items():
        for bits in (2, 3, 4):
            predicted = [choice.sensitivity.losses[name][bits] for name in free]
            found = [singles[name, bits] for name in free]
            yield _row(bench, method, f"layers at {bits} bits", predicted, found)
    sensitivity = bench.choices["inter_layer"].sensitivity
    assert sensitivity.pairs is not None
    terms = sensitivity.pairs.terms
    index = {candidate: i for i, candidate in enumerate(sensitivity.candidates)}
    for bits in (2, 4):
        own = [float(terms[index[n, bits], index[n, bits]] / 2) for n in free]
        found = [singles[name, bits] for name in free]
        yield _row(bench, "own term of inter_layer", f"layers at {bits} bits", own, found)
        pairs = [((a, bits), (b, bits)) for a, b in itertools.combinations(free, 2)]
        predicted = [float(terms[index[a], index[b]]) for a, b in pairs]
        added = [measured(dict([a, b])) - singles[a] - singles[b] for a, b in pairs]
        yield _row(bench, "pair terms", f"pairs at {bits} bits", predicted, added)


def _measured(bench: Bench) -> MeasuredDivergence:
    """On test images, which no prediction has seen."""
    images = [bench.task.images[:500].astype("float32")]
    errors = bench.choices["inter_layer"].sensitivity.errors
    return MeasuredDivergence(bench.canonical, images, errors, count=500)


def _row(
    bench: Bench, method: str, what: str, predicted: list[float], found: list[float]
) -> dict[str, Any]:
    rank = spearmanr(predicted, found).statistic
    ratio = float(np.sum(found) / np.sum(predicted))
    return {
        "method": method,
        "what": what,
        "rank_correlation": round(float(rank), 3),
        "measured_over_predicted": float(f"{ratio:.3g}"),
        "seconds": round(bench.seconds.get(method, 0.0), 1),
    }


def divergences(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measured divergence of whole choices; "own terms" is inter_layer without its pair terms."""
    measured = _measured(bench)
    losses = {method: choice.sensitivity.losses for method, choice in bench.choices.items()}
    losses["own terms"] = _own_terms(bench)
    for budget in FINE_BUDGETS:
        if bench.smallest > budget:
            break
        limits = {"weight_bytes": bench.limit(budget)}
        for method, table in losses.items():
            program = bench.choices["label_free"].program.with_losses(keyed(table))
            widths = of_kind(Choice(program).within(limits), "weights")
            yield _divergence(method, budget, measured(widths))
        for method in bench.choices if options.moves else ():
            widths = bench.improved(method, budget, options.moves)
            yield _divergence(f"{method}, measured", budget, measured(widths))
        draws = [measured(bench.random(budget, i)) for i in range(options.draws)]
        yield {
            "method": f"random, mean of {options.draws}",
            "budget": budget,
            "divergence": round(float(np.mean(draws)), 4),
            "best": round(min(draws), 4),
        }


def _divergence(method: str, budget: float, value: float) -> dict[str, Any]:
    return {"method": method, "budget": budget, "divergence": round(value, 4)}


def activation_correlation(bench: Bench) -> Iterator[dict[str, Any]]:
    """Predicted against measured divergence of groups of activations, weights as trained."""
    images = tf.constant(bench.task.images[:256].astype("float32"))
    graph, distillation = LayerGraph.of(bench.canonical), SelfDistillation(bench.canonical)
    for method in SENSITIVITIES:
        config = dataclasses.replace(
            bench.config, weight_bits=8, activation_bits=ACTIVATION_WIDTHS, sensitivity=method
        )
        plan = QuantizationPlan.of(bench.canonical, config)
        scores = FloatScores(bench.canonical, bench.samples, config.seed)
        begin = time.perf_counter()
        losses = activation_sensitivity(
            plan, Facts(plan.model, bench.samples, config, Checkpoint(), scores)
        )
        seconds = round(time.perf_counter() - begin, 1)
        grids = activation_grids(plan, scores.histograms)
        reference = graph.execute([images])
        for bits in ACTIVATION_WIDTHS:
            predicted, found = [], []
            for name, group in plan.groups.items():
                if bits in group.widths and len(group.widths) > 1:
                    keys = {
                        key: grid
                        for (_, width), grid in grids.items()
                        for key in grid.keys
                        if width == bits and plan.group_of(key) == name
                    }
                    moved = graph.execute([images], hook=_rounding(keys))
                    divergence = distillation.divergence(reference, moved)
                    found.append(float(tf.reduce_mean(divergence)))
                    predicted.append(losses[name][bits])
            row = _row(bench, method, f"{len(found)} groups at {bits} bits", predicted, found)
            yield {**row, "seconds": seconds}


def _rounding(grids: dict[Any, Grid]) -> Any:
    """A hook that rounds the outputs of some calls; inputs have 8 bits and stay as they are."""

    def hook(call: Any, _: Any, output: tf.Tensor) -> tf.Tensor:
        return output + grids[call.output].error(output) if call.output in grids else output

    return hook


def _own_terms(bench: Bench) -> dict[str, dict[int, float]]:
    sensitivity = bench.choices["inter_layer"].sensitivity
    assert sensitivity.pairs is not None
    result: dict[str, dict[int, float]] = {}
    own = np.diag(sensitivity.pairs.terms) / 2
    for (name, bits), loss in zip(sensitivity.candidates, own, strict=True):
        result.setdefault(name, {})[bits] = float(loss)
    return result


def allocations(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Accuracy of files: uniform widths, the three sensitivities, random draws."""
    untrained = {"rounding": options.untrained}
    settings = untrained if options.part == "before" else {"steps": options.steps}
    for bits in options.uniform:
        widths = bench.uniform(bits)
        yield {"method": f"uniform {bits}", **bench.file_accuracy(widths, **settings)}
    for budget in options.budgets:
        for method in options.methods:
            try:
                found = bench.choices[method].within({"weight_bytes": bench.limit(budget)})
                widths = of_kind(found, "weights")
            except ValueError as error:
                print(f"{bench.task.name}: {error}; see --ends", flush=True)
                break
            result = bench.file_accuracy(widths, **settings)
            yield {"method": method, "budget": budget, **result, "widths": list(widths.values())}
            if options.moves:
                widths = bench.improved(method, budget, options.moves)
                result = bench.file_accuracy(widths, **settings)
                named = {"method": f"{method}, measured", "budget": budget}
                yield {**named, **result, "widths": list(widths.values())}
        if options.draws and options.part == "before" and bench.smallest <= budget:
            yield {"budget": budget, **_random(bench, budget, options.draws, settings)}


def _random(bench: Bench, budget: float, draws: int, settings: Any) -> dict[str, Any]:
    results = [bench.file_accuracy(bench.random(budget, i), **settings) for i in range(draws)]
    values = np.array([result["accuracy"] for result in results])
    return {
        "method": f"random, mean of {draws}",
        "size": round(float(np.mean([result["size"] for result in results])), 2),
        "accuracy": round(float(values.mean()), 2),
        "error": round(float(values.std(ddof=1) / np.sqrt(draws)), 2),
        "best": float(values.max()),
        "seconds": round(sum(result["seconds"] for result in results), 1),
    }


def accuracy_target(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The fewest bytes that hold 99 % of the float accuracy, on half of the labelled images."""
    images, labels = bench.task.images[::2], bench.task.labels[::2]

    def metric(model: Any) -> np.ndarray:
        return model.predict(images, verbose=0).argmax(axis=1) == labels

    for search, rounding in (entry.split("-") for entry in options.searches):
        begin = time.perf_counter()
        config = dataclasses.replace(
            bench.config,
            rounding=rounding,
            steps=options.steps,
            accuracy_target=tfeptq.AccuracyTarget(
                metric, search_steps=options.search_steps, search=search
            ),
        )
        quantized = tfeptq.quantize(
            bench.task.model, bench.samples, config, checkpoint_dir=options.keep
        )
        report = quantized.accuracy_search
        widths = {name: bits for name, (bits, _) in quantized.bit_widths.items() if bits}
        yield {
            "method": f"99 % of float, {search}, {rounding}",
            "size": round(100 * bench.fraction(widths), 2),
            "accuracy": round(100 * report.comparison.score, 2),
            "float": round(100 * report.float_score, 2),
            "error": round(100 * report.comparison.error, 2),
            "evaluations": report.evaluations,
            "steps_back": report.steps_back,
            "seconds": round(time.perf_counter() - begin, 1),
            "widths": list(widths.values()),
        }


def joint(bench: Bench) -> Iterator[dict[str, Any]]:
    """Weights and activations together: files within the bit operations of uniform widths.

    Ends have 8 bits in both; OPTQ without training.
    """
    config = dataclasses.replace(bench.config, activation_bits=ACTIVATION_WIDTHS)
    plan = QuantizationPlan.of(bench.canonical, config)
    choice = prepare_choice(plan, bench.samples, config)
    for wide, activations in ((8, 4), (4, 6), (4, 4), (3, 4)):
        plain = dataclasses.replace(
            config, weight_bits=bench.uniform(wide), activation_bits=activations
        )
        result, quantized = bench.accuracy_of(dataclasses.replace(plain, rounding="optq"))
        limit = choice.point_of(quantized.bit_widths).costs["bit_operations"]
        yield {"method": f"uniform W{wide}A{activations}", "operations": limit, **result}
        chosen = choice.within({"bit_operations": limit})
        fixed = choice.configured(config, chosen)
        result, _ = bench.accuracy_of(dataclasses.replace(fixed, rounding="optq"))
        point = choice.point(chosen)
        yield {
            "method": "inter_layer, joint",
            "operations": point.costs["bit_operations"],
            **result,
            "widths": list(point.widths.values()),
            "activations": list(point.activation_widths.values()),
        }


def tables(results: list[dict[str, Any]]) -> None:
    for part in dict.fromkeys(result["part"] for result in results):
        rows = [result for result in results if result["part"] == part]
        columns = list(dict.fromkeys(key for row in rows for key in row if key not in _LISTS))
        show(part, columns, [[row.get(column, "") for column in columns] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet8", "dscnn", "resnet20", "resnet56"])
    parser.add_argument("--parts", nargs="+", default=PARTS)
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--methods", nargs="*", default=list(SENSITIVITIES))
    parser.add_argument("--uniform", nargs="*", type=int, default=list(WIDTHS))
    parser.add_argument("--ends", type=int, default=8, help="first_last_bits; 0: chosen as others")
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS), help="candidates")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--moves", type=int, default=0, help="measured_moves of extra rows")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--augment", action="store_true", help="copies fill up to --samples")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--untrained", choices=["optq", "nearest"], default="optq")
    parser.add_argument(
        "--start", choices=["optq", "nearest"], default="nearest", help="where training starts"
    )
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES)
    parser.add_argument("--search-steps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder in which sensitivities are kept between runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    parser.add_argument("--plot", type=Path, help="draw recorded accuracies against sizes")
    options = parser.parse_args()
    if options.table or options.plot:
        recorded = [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.table:
            tables(recorded)
        if options.plot:
            write_plot(recorded, options.plot)
        return
    warnings.simplefilter("ignore", UserWarning)
    results = []
    for name in options.models:
        benches: dict[str, Bench] = {}
        for part in options.parts:
            options.part = part
            rounding = options.untrained if part == "before" else "eptq"
            if rounding not in benches:
                benches[rounding] = _bench(name, rounding, options)
            bench = benches[rounding]
            for result in _results(bench, options):
                header = {"model": name, "part": part, "ends": options.ends or "chosen"}
                header |= {"candidates": options.widths, "samples": len(bench.samples[0])}
                header |= {"rounding": rounding} if part == "before" else {}
                header |= (
                    {"steps": options.steps, "start": options.start} if part == "after" else {}
                )
                results.append({**header, **result})
                record(results[-1], options.results)
    tables(results)


def _bench(name: str, rounding: str, options: argparse.Namespace) -> Bench:
    """Sensitivities depend on the rounding that they are for."""
    return Bench(
        load(name),
        samples=options.samples,
        seed=options.seed,
        widths=tuple(options.widths),
        ends=options.ends or None,
        rounding=rounding,
        start=options.start,
        augments=options.augment,
        keep=options.keep,
    )


def _results(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.part == "correlation":
        return correlation(bench)
    if options.part == "activations":
        return activation_correlation(bench)
    if options.part == "joint":
        return joint(bench)
    if options.part == "divergence":
        return divergences(bench, options)
    if options.part == "target":
        return accuracy_target(bench, options)
    return allocations(bench, options)


if __name__ == "__main__":
    main()
